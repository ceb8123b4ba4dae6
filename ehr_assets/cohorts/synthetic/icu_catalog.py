"""What the intensive care simulator knows: dynamics, reasons for admission, drugs, devices, concepts.

What belongs here: constants only. Burden is the severity of the acute illness, where 0 is no organ
dysfunction and about 2 is shock; each organ system is a site of it; the engine's resistance is the failing of
a treatment; rates are per hour. Chosen so that these have the right order:

- death in hospital after admission to an ICU about 10 to 12 % (MIMIC-III, Johnson et al., Sci Data 2016:
  11.5 % of adults);
- a stay in the ICU of about two days in the median (the same: 2.1 days);
- vasopressors in about a quarter, invasive ventilation in a third to a half of stays.

They are not estimates from patients.
"""

from dataclasses import dataclass
from datetime import timedelta

from ehr_assets.cohorts.synthetic import analytes as lab
from ehr_assets.cohorts.synthetic.engine import Dynamics
from ehr_assets.cohorts.synthetic.tables import Concept, demographics, named

SITES = ("RESPIRATORY", "CARDIOVASCULAR", "RENAL", "COAGULATION", "HEPATIC", "NEUROLOGIC")
RESPIRATORY, CARDIOVASCULAR, RENAL, COAGULATION, HEPATIC, NEUROLOGIC = range(len(SITES))
DYNAMICS = Dynamics(
    sites=SITES,
    step=timedelta(hours=1),
    names={"burden": "severity", "resistance": "treatment_failure", "toxicity": "support_burden"},
    capacity=3.5,
    floor=-1.5,
    velocity_pull=0.05,
    velocity_noise=0.0012,
    burden_noise=0.02,
    resistance_noise=0.001,
    cross_resistance=0.5,
    reserve_pull=0.004,
    reserve_noise=0.012,
    reserve_wear=0.0015,
    wear_from=1.0,
    site_pull=0.01,
    site_noise=0.02,
    hazard_base=0.00005,
    hazard_burden=2.2,
    hazard_reserve=1.1,
)
# Mean and spread per hour: growth without treatment, log rate at which a treatment fails, log effect of one.
GROWTH = (0.017, 0.017)
FAILURE = (0.003, 0.7)
POTENCY = (0.020, 0.6)
AFFINITY_SPREAD = 0.4
# Drain on the reserve per hour: of treatment as such, of a vasopressor, of a ventilator.
DRAIN, DRAIN_VASOPRESSOR, DRAIN_VENTILATOR = 0.0004, 0.0010, 0.0008


@dataclass(frozen=True, slots=True)
class Reason:
    """Why somebody comes to the ICU. `affinity`: mean offsets of `SITES`; `severity`: mean on arrival."""

    code: str
    name: str
    share: float
    severity: float
    affinity: tuple[float, ...]
    fever: float
    ventilated: float  # chance to arrive on a ventilator


#                                                                         resp  card  ren   coag  hep   neuro
REASONS = (
    Reason("A41.9", "Sepsis, unspecified", 0.25, 1.15, (-0.2, 0.2, 0.0, -0.1, -0.4, -0.5), 0.7, 0.08),
    Reason("J18.9", "Pneumonia, unspecified", 0.2, 1.0, (0.4, -0.3, -0.5, -0.7, -0.9, -0.6), 0.7, 0.15),
    Reason("I50.9", "Heart failure, unspecified", 0.18, 0.9, (0.2, 0.25, 0.0, -0.9, -0.4, -0.9), 0.0, 0.06),
    Reason("K92.2", "Gastrointestinal hemorrhage", 0.12, 0.85, (-0.8, 0.2, -0.4, 0.2, 0.1, -0.6), 0.0, 0.06),
    Reason("I61.9", "Intracerebral hemorrhage", 0.1, 0.95, (-0.5, -0.6, -0.9, -0.7, -1.0, 0.8), 0.2, 0.3),
    Reason("Z48.812", "After heart surgery", 0.15, 0.6, (-0.1, 0.2, -0.4, -0.1, -0.8, -0.8), 0.1, 0.6),
)  # fmt: skip
INFECTIONS = ("A41.9", "J18.9")
COMPLICATIONS = {  # coded at discharge, if the site was ever above the bound
    "J96.01": ("Acute respiratory failure with hypoxia", RESPIRATORY, 1.4),
    "R57.9": ("Shock, unspecified", CARDIOVASCULAR, 1.7),
    "N17.9": ("Acute kidney failure, unspecified", RENAL, 1.3),
    "D69.6": ("Thrombocytopenia, unspecified", COAGULATION, 1.4),
    "K72.00": ("Acute hepatic failure without coma", HEPATIC, 1.7),
    "G93.41": ("Metabolic encephalopathy", NEUROLOGIC, 1.5),
}
COMORBIDITIES: dict[str, tuple[str, float]] = {
    "I10": ("Essential (primary) hypertension", 0.5),
    "E11.9": ("Type 2 diabetes mellitus without complications", 0.25),
    "J44.9": ("Chronic obstructive pulmonary disease, unspecified", 0.17),
    "I25.10": ("Atherosclerotic heart disease of native coronary artery", 0.22),
    "N18.3": ("Chronic kidney disease, stage 3 (moderate)", 0.14),
    "K74.60": ("Unspecified cirrhosis of liver", 0.05),
}

# RxNorm ingredient, unit of the amount, route.
DRUGS: dict[str, tuple[str, str, str]] = {
    "norepinephrine": ("7512", "ug/kg/min", "intravenous"),
    "vasopressin": ("11149", "U/min", "intravenous"),
    "propofol": ("8782", "ug/kg/min", "intravenous"),
    "fentanyl": ("4337", "ug/h", "intravenous"),
    "piperacillin": ("8339", "mg", "intravenous"),
    "vancomycin": ("11124", "mg", "intravenous"),
    "meropenem": ("29561", "mg", "intravenous"),
    "furosemide": ("4603", "mg", "intravenous"),
    "pantoprazole": ("40790", "mg", "intravenous"),
    "sodium chloride": ("9863", "mL", "intravenous"),
    "heparin": ("5224", "U", "subcutaneous"),
}
DRUG_KEY = {name: f"RxNorm/{drug[0]}" for name, drug in DRUGS.items()}
VENTILATOR, HIGH_FLOW = "DEVICE/INVASIVE_VENTILATION", "DEVICE/HIGH_FLOW_OXYGEN"
DIALYSIS = "DEVICE/RENAL_REPLACEMENT"
_DEVICE_NAMES = {
    "INVASIVE_VENTILATION": "Invasive mechanical ventilation",
    "HIGH_FLOW_OXYGEN": "High-flow nasal oxygen",
    "RENAL_REPLACEMENT": "Continuous renal replacement therapy",
}
_LEFT = {"HOME": "home", "FACILITY": "a care facility", "EXPIRED": "expired"}
ANALYTES = {key: lab.ANALYTES[key] for key in lab.ANALYTES if key not in (lab.D_DIMER, lab.TROPONIN, lab.BNP)}


def concepts() -> list[Concept]:
    """The rows of `concept.csv`, in a fixed order (new concepts go at the end, or ids change)."""
    icd = {r.code: r.name for r in REASONS} | {code: name for code, (name, *_) in COMPLICATIONS.items()}
    icd |= {code: name for code, (name, _) in COMORBIDITIES.items()}
    visits = {
        "OUTPATIENT": "Outpatient visit",
        "INPATIENT": "Inpatient visit",
        "ICU": "Stay in intensive care",
    }
    left = {code: f"Discharged: {name}" for code, name in _LEFT.items()}
    return [
        *demographics(),
        *named("VISIT", "Visit", "Visit", visits),
        *named("DISCHARGE", "Observation", "Discharge", left),
        *named("ICD10CM", "Condition", "ICD10 code", icd),
        *named("RxNorm", "Drug", "Ingredient", {drug[0]: name for name, drug in DRUGS.items()}),
        *named("DEVICE", "Device", "Device", _DEVICE_NAMES),
        *lab.analyte_concepts(ANALYTES),
    ]
