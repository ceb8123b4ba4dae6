"""What the pulmonary embolism simulator knows: dynamics, drugs, diagnoses, concepts.

What belongs here: constants only. Burden is the log of the clot in the pulmonary arteries, where 0 is the
smallest that a CT angiogram shows; the engine's resistance is the organization of clot into scar, which no
anticoagulant dissolves and from which pulmonary hypertension comes; rates are per day. Chosen so that these
have the right order:

- death within 30 days of the index study about 5 to 10 % (Sedhom et al., Am J Cardiol 2022, 1.4 million
  admissions: 6.5 % in hospital);
- readmission within 30 days 15 to 20 % (the same: 15.2 % urgent ones);
- pulmonary hypertension in the first year a few percent (Pengo et al., NEJM 2004: thromboembolic 3.1 %).

They are not estimates from patients. `ORGANIZATION` is the knob for pulmonary hypertension.
"""

from datetime import timedelta

from ehr_assets.cohorts.synthetic import analytes as lab
from ehr_assets.cohorts.synthetic.engine import Dynamics
from ehr_assets.cohorts.synthetic.tables import Concept, demographics, named
from ehr_assets.cohorts.synthetic.views import Analyte

SITES = ("CENTRAL", "PERIPHERAL")
CENTRAL, PERIPHERAL = range(len(SITES))
DYNAMICS = Dynamics(
    sites=SITES,
    step=timedelta(days=1),
    names={"burden": "clot", "resistance": "organization", "toxicity": "bleeding_drain"},
    capacity=3.5,
    floor=-2.0,
    velocity_pull=0.06,
    velocity_noise=0.0015,
    burden_noise=0.015,
    resistance_noise=0.004,
    cross_resistance=0.8,
    reserve_pull=0.007,
    reserve_noise=0.018,
    reserve_wear=0.006,
    wear_from=0.6,
    site_pull=0.02,
    site_noise=0.03,
    hazard_base=0.00012,
    hazard_burden=1.7,
    hazard_reserve=1.3,
)
# Mean and spread, per day: growth of clot on its own (mostly it dissolves), log rate of organization under
# treatment, log effect of anticoagulation.
GROWTH = (-0.0025, 0.0045)
ORGANIZATION = (0.024, 0.8)
POTENCY = (0.07, 0.5)
AFFINITY = ((-0.2, 0.4), (-0.2, 0.5))  # of `SITES`

RVSP, TAPSE = "ECHO/RVSP", "ECHO/TAPSE"
ANALYTES = {
    key: lab.ANALYTES[key]
    for key in (
        lab.HEART_RATE, lab.SYSTOLIC, lab.RESPIRATION, lab.SATURATION, lab.TEMPERATURE, lab.D_DIMER,
        lab.TROPONIN, lab.BNP, lab.LACTATE, lab.CREATININE, lab.HEMOGLOBIN, lab.PLATELETS, lab.LEUKOCYTES,
    )
} | {
    RVSP: Analyte("Right ventricular systolic pressure by echocardiography", "mm[Hg]", 3.0, 3.0, low=15),
    TAPSE: Analyte("Tricuspid annular plane systolic excursion", "mm", 1.5, 1.2, low=4),
}  # fmt: skip
PULMONARY_HYPERTENSION_RVSP = 42.0

COMORBIDITIES: dict[str, tuple[str, float]] = {
    "I10": ("Essential (primary) hypertension", 0.48),
    "E11.9": ("Type 2 diabetes mellitus without complications", 0.2),
    "J44.9": ("Chronic obstructive pulmonary disease, unspecified", 0.15),
    "I50.9": ("Heart failure, unspecified", 0.14),
    "N18.3": ("Chronic kidney disease, stage 3 (moderate)", 0.1),
    "E66.9": ("Obesity, unspecified", 0.25),
    "Z86.718": ("Personal history of other venous thrombosis and embolism", 0.1),
}
CANCERS = {"C34.90": "Malignant neoplasm of lung", "C18.9": "Malignant neoplasm of colon",
           "C50.919": "Malignant neoplasm of breast", "C61": "Malignant neoplasm of prostate"}  # fmt: skip
CANCER_SHARE = 0.18
EMBOLISM, EMBOLISM_WITH_STRAIN = "ICD10CM/I26.99", "ICD10CM/I26.09"
HYPERTENSION = ("ICD10CM/I27.24", "ICD10CM/I27.20")  # thromboembolic; unspecified
BLEEDING = "ICD10CM/K92.2"
ADMITTED_FOR = {  # other reasons, with their shares
    "I50.9": 0.3, "J18.9": 0.25, "N17.9": 0.15, "J44.1": 0.15, "R07.9": 0.15,
}  # fmt: skip
PRIMARY_ADMISSIONS = ("J18.9", "S72.001A", "I63.9", "K56.609")  # in whose course an embolism happens
_ICD_NAMES = {
    "I26.99": "Other pulmonary embolism without acute cor pulmonale",
    "I26.09": "Other pulmonary embolism with acute cor pulmonale",
    "I27.24": "Chronic thromboembolic pulmonary hypertension",
    "I27.20": "Pulmonary hypertension, unspecified",
    "K92.2": "Gastrointestinal hemorrhage, unspecified",
    "J18.9": "Pneumonia, unspecified organism",
    "N17.9": "Acute kidney failure, unspecified",
    "J44.1": "Chronic obstructive pulmonary disease with (acute) exacerbation",
    "R07.9": "Chest pain, unspecified",
    "S72.001A": "Fracture of unspecified part of neck of right femur, initial encounter",
    "I63.9": "Cerebral infarction, unspecified",
    "K56.609": "Unspecified intestinal obstruction",
}

# RxNorm ingredient, amount, unit, route, days of supply.
DRUGS: dict[str, tuple[str, float, str, str, int]] = {
    "heparin": ("5224", 1200, "U/h", "intravenous", 1),
    "enoxaparin": ("67108", 80, "mg", "subcutaneous", 30),
    "apixaban": ("1364430", 10, "mg", "oral", 30),
    "rivaroxaban": ("1114195", 20, "mg", "oral", 30),
    "warfarin": ("11289", 5, "mg", "oral", 30),
    "alteplase": ("8410", 100, "mg", "intravenous", 0),
    "riociguat": ("1439816", 3, "mg", "oral", 30),
    "furosemide": ("4603", 40, "mg", "oral", 30),
    "oxygen": ("7806", 3, "L/min", "inhalation", 1),
}
DRUG_KEY = {name: f"RxNorm/{drug[0]}" for name, drug in DRUGS.items()}
ANTICOAGULANTS = {"apixaban": 0.5, "rivaroxaban": 0.2, "warfarin": 0.2, "enoxaparin": 0.1}
CTPA, ECHO = "CPT4/71275", "CPT4/93306"
_PROCEDURE_NAMES = {  # our own words: CPT's descriptors are not ours to copy
    "71275": "CT angiography of the chest",
    "93306": "Transthoracic echocardiography",
}


def concepts() -> list[Concept]:
    """The rows of `concept.csv`, in a fixed order (new concepts go at the end, or ids change)."""
    icd = _ICD_NAMES | {code: name for code, (name, _) in COMORBIDITIES.items()} | CANCERS
    visits = {"OUTPATIENT": "Outpatient visit", "INPATIENT": "Inpatient visit"}
    return [
        *demographics(),
        *named("VISIT", "Visit", "Visit", visits),
        *named("NOTE", "Note", "Note", {"CTPA": "CT pulmonary angiography report"}),
        *named("ICD10CM", "Condition", "ICD10 code", icd),
        *named("RxNorm", "Drug", "Ingredient", {drug[0]: name for name, drug in DRUGS.items()}),
        *named("CPT4", "Procedure", "CPT4", _PROCEDURE_NAMES),
        *lab.analyte_concepts(ANALYTES),
    ]
