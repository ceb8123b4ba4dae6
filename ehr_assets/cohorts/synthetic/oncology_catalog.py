"""What the oncology simulator knows of the disease: indications, regimens, sites, analytes, concepts.

What belongs here: constants only. Burden is on the engine's log scale, where 0 is the smallest disease that
imaging sees and 1 unit is a factor e in the sum of lesion diameters; rates are per week. The numbers were set
so that survival, line changes and toxicity are plausible per indication and the tasks are neither trivial nor
rare; they are not estimates from patients.
"""

from dataclasses import dataclass
from datetime import timedelta

from ehr_assets.cohorts.synthetic.engine import Dynamics
from ehr_assets.cohorts.synthetic.tables import Concept, demographics, named

SITES = ("LUNG", "LIVER", "BONE", "BRAIN", "LYMPH_NODE", "LOCAL")
LOCAL = SITES.index("LOCAL")
DYNAMICS = Dynamics(sites=SITES, step=timedelta(weeks=1))
NEW_LESION = 0.6  # log burden at which a site not known to be involved is called a lesion

METASTASIS = {
    "LUNG": "ICD10CM/C78.00",
    "LIVER": "ICD10CM/C78.7",
    "BONE": "ICD10CM/C79.51",
    "BRAIN": "ICD10CM/C79.31",
    "LYMPH_NODE": "ICD10CM/C77.9",
}

# Milligrams of one administration (infusions, injections) or one day (tablets); route; days of supply.
DRUGS: dict[str, tuple[str, float, str, int]] = {
    "carboplatin": ("40048", 550, "intravenous", 0),
    "cisplatin": ("2555", 130, "intravenous", 0),
    "paclitaxel": ("56946", 310, "intravenous", 0),
    "docetaxel": ("72962", 135, "intravenous", 0),
    "gemcitabine": ("12574", 1800, "intravenous", 0),
    "pembrolizumab": ("1547545", 400, "intravenous", 0),
    "nivolumab": ("1597876", 480, "intravenous", 0),
    "oxaliplatin": ("32592", 150, "intravenous", 0),
    "irinotecan": ("51499", 300, "intravenous", 0),
    "fluorouracil": ("4492", 4300, "intravenous", 2),
    "doxorubicin": ("3639", 110, "intravenous", 0),
    "leuprolide": ("42375", 7.5, "intramuscular", 0),
    "enzalutamide": ("1307298", 160, "oral", 28),
    "sunitinib": ("357977", 50, "oral", 28),
    "cabozantinib": ("1363268", 60, "oral", 28),
    "bevacizumab": ("253337", 1100, "intravenous", 0),
    "pemetrexed": ("68446", 900, "intravenous", 0),
    "ifosfamide": ("5657", 9000, "intravenous", 3),
    "ondansetron": ("26225", 16, "oral", 3),
    "dexamethasone": ("3264", 8, "oral", 3),
    "filgrastim": ("68442", 0.3, "subcutaneous", 5),
    "morphine": ("7052", 30, "oral", 28),
}
DRUG_KEY = {name: f"RxNorm/{rxcui}" for name, (rxcui, *_) in DRUGS.items()}

TOXICITIES = ("NEUTROPENIA", "NAUSEA", "NEUROPATHY", "FATIGUE", "ANEMIA", "COLITIS")
# Mean of the latent severity (see oncology_views.toxicity) by kind of regimen.
TOXICITY_PROFILE: dict[str, dict[str, float]] = {
    "platinum": {"NEUTROPENIA": 0.8, "NAUSEA": 0.4, "NEUROPATHY": 0.1, "ANEMIA": 0.45},
    "cytotoxic": {"NEUTROPENIA": 0.75, "FATIGUE": 0.4, "NAUSEA": 0.2, "ANEMIA": 0.35},
    "taxane": {"NEUTROPENIA": 0.65, "NEUROPATHY": 0.5, "FATIGUE": 0.35},
    "immune": {"FATIGUE": 0.3, "COLITIS": 0.25},
    "targeted": {"FATIGUE": 0.5, "NAUSEA": 0.2},
    "hormonal": {"FATIGUE": 0.1},
}


@dataclass(frozen=True, slots=True)
class Regimen:
    """Agents given together every `cycle` weeks, `cycles` times; potency is for an average subject."""

    agents: tuple[str, ...]
    kind: str
    cycle: int
    cycles: int
    potency: float
    toxicity: float  # drain on the reserve per week


@dataclass(frozen=True, slots=True)
class Indication:
    """One cancer. `affinity`: mean site offsets, ordered as `SITES`; `stages`: probabilities of I to IV."""

    name: str
    code: str
    surgery: str
    marker: str | None
    female: float
    age: float
    growth: float
    affinity: tuple[float, ...]
    stages: tuple[float, float, float, float]
    lines: tuple[Regimen, ...]
    first_line_alternative: Regimen | None = None


def _platinum(*agents: str, potency: float = 0.082) -> Regimen:
    return Regimen(agents, "platinum", 3, 6, potency, 0.022)


def _cytotoxic(*agents: str, potency: float = 0.064) -> Regimen:
    return Regimen(agents, "cytotoxic", 3, 6, potency, 0.020)


def _taxane(*agents: str, potency: float = 0.064) -> Regimen:
    return Regimen(agents, "taxane", 3, 6, potency, 0.018)


def _immune(*agents: str, cycle: int = 6, potency: float = 0.064) -> Regimen:
    return Regimen(agents, "immune", cycle, 12, potency, 0.005)


def _targeted(*agents: str, cycle: int = 4, potency: float = 0.064) -> Regimen:
    return Regimen(agents, "targeted", cycle, 14, potency, 0.010)


def _hormonal(*agents: str, potency: float = 0.066) -> Regimen:
    return Regimen(agents, "hormonal", 4, 12, potency, 0.004)


CEA, CA125, CA199, PSA = "LOINC/2039-6", "LOINC/10334-1", "LOINC/24108-3", "LOINC/2857-1"

#                      lung  liver bone  brain node  local
INDICATIONS: tuple[Indication, ...] = (
    Indication(
        "bladder", "C67.9", "51595", None, 0.25, 69, 0.017,
        (-0.9, -1.0, -0.8, -1.9, -0.4, -0.2), (0.24, 0.26, 0.24, 0.26),
        (_platinum("gemcitabine", "cisplatin"), _immune("pembrolizumab"), _taxane("docetaxel")),
    ),
    Indication(
        "kidney", "C64.9", "50230", None, 0.35, 62, 0.014,
        (-0.4, -1.3, -0.9, -1.0, -0.9, -0.4), (0.28, 0.22, 0.22, 0.28),
        (_targeted("sunitinib", cycle=6), _targeted("cabozantinib"), _immune("nivolumab", cycle=4)),
        _immune("pembrolizumab"),
    ),
    Indication(
        "lung", "C34.90", "32480", CEA, 0.48, 66, 0.020,
        (-0.5, -0.9, -0.7, -0.15, -0.4, -0.3), (0.18, 0.16, 0.24, 0.42),
        (_platinum("carboplatin", "pemetrexed"), _taxane("docetaxel"), _cytotoxic("gemcitabine")),
        _immune("pembrolizumab"),
    ),
    Indication(
        "ovarian", "C56.9", "58956", CA125, 1.0, 60, 0.018,
        (-1.3, -0.8, -2.0, -2.4, -0.6, 0.0), (0.15, 0.15, 0.42, 0.28),
        (_platinum("carboplatin", "paclitaxel", potency=0.092), _cytotoxic("doxorubicin", "bevacizumab"),
         _cytotoxic("gemcitabine")),
    ),
    Indication(
        "pancreas", "C25.9", "48150", CA199, 0.47, 67, 0.025,
        (-1.1, -0.2, -1.9, -2.5, -0.7, -0.2), (0.12, 0.20, 0.26, 0.42),
        (_platinum("oxaliplatin", "irinotecan", "fluorouracil", potency=0.075),
         _taxane("gemcitabine", "paclitaxel"), _cytotoxic("ifosfamide", potency=0.038)),
    ),
    Indication(
        "prostate", "C61", "55866", PSA, 0.0, 68, 0.012,
        (-1.6, -1.4, 0.0, -2.5, -0.5, -0.4), (0.26, 0.28, 0.22, 0.24),
        (_hormonal("leuprolide"), _hormonal("enzalutamide"), _taxane("docetaxel")),
    ),
    Indication(
        "sarcoma", "C49.9", "21557", None, 0.5, 55, 0.020,
        (-0.1, -1.3, -1.3, -1.8, -1.6, -0.1), (0.20, 0.24, 0.28, 0.28),
        (_cytotoxic("doxorubicin", "ifosfamide", potency=0.068), _taxane("gemcitabine", "docetaxel"),
         _targeted("sunitinib", cycle=6)),
    ),
    Indication(
        "upper_gi", "C16.9", "43632", CEA, 0.35, 65, 0.021,
        (-1.2, -0.4, -1.4, -2.3, -0.4, -0.2), (0.16, 0.20, 0.28, 0.36),
        (_platinum("oxaliplatin", "fluorouracil", potency=0.075), _taxane("paclitaxel", "bevacizumab"),
         _cytotoxic("irinotecan")),
    ),
    Indication(
        "uterus", "C54.1", "58571", CA125, 1.0, 63, 0.014,
        (-0.8, -1.4, -1.6, -2.0, -0.6, -0.2), (0.34, 0.22, 0.24, 0.20),
        (_platinum("carboplatin", "paclitaxel"), _immune("pembrolizumab"), _cytotoxic("doxorubicin")),
    ),
)  # fmt: skip

# Share of each indication in the cohort, in the order above (lung, ovarian, pancreas and prostate lead, as in
# SMB-Structure Table 8).
WEIGHTS = (0.09, 0.08, 0.20, 0.14, 0.12, 0.12, 0.07, 0.09, 0.09)

# LOINC code: name, unit, probability of being drawn at a visit.
LABS: dict[str, tuple[str, str, float]] = {
    "718-7": ("Hemoglobin [Mass/volume] in Blood", "g/dL", 0.38),
    "751-8": ("Neutrophils [#/volume] in Blood by Automated count", "10*3/uL", 0.36),
    "777-3": ("Platelets [#/volume] in Blood by Automated count", "10*3/uL", 0.2),
    "2160-0": ("Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 0.22),
    "1751-7": ("Albumin [Mass/volume] in Serum or Plasma", "g/dL", 0.36),
    "2532-0": ("Lactate dehydrogenase [Enzymatic activity/volume] in Serum or Plasma", "U/L", 0.36),
    "1742-6": ("Alanine aminotransferase [Enzymatic activity/volume] in Serum or Plasma", "U/L", 0.17),
    "6768-6": ("Alkaline phosphatase [Enzymatic activity/volume] in Serum or Plasma", "U/L", 0.17),
}
# LOINC key: name, unit, median where no disease is seen. Drawn with probability MARKER_DRAWN at a visit.
MARKERS: dict[str, tuple[str, str, float]] = {
    CEA: ("Carcinoembryonic Ag [Mass/volume] in Serum or Plasma", "ng/mL", 3.0),
    CA125: ("Cancer Ag 125 [Units/volume] in Serum or Plasma", "U/mL", 18.0),
    CA199: ("Cancer Ag 19-9 [Units/volume] in Serum or Plasma", "U/mL", 20.0),
    PSA: ("Prostate specific Ag [Mass/volume] in Serum or Plasma", "ng/mL", 1.0),
}
MARKER_DRAWN = 0.75
WEIGHT, ECOG = "LOINC/29463-7", "LOINC/89247-1"

COMORBIDITIES: dict[str, tuple[str, float]] = {
    "I10": ("Essential (primary) hypertension", 0.45),
    "E11.9": ("Type 2 diabetes mellitus without complications", 0.2),
    "J44.9": ("Chronic obstructive pulmonary disease, unspecified", 0.13),
    "I50.9": ("Heart failure, unspecified", 0.07),
    "N18.3": ("Chronic kidney disease, stage 3 (moderate)", 0.08),
}

_ICD_NAMES = {
    "C67.9": "Malignant neoplasm of bladder, unspecified",
    "C64.9": "Malignant neoplasm of unspecified kidney, except renal pelvis",
    "C34.90": "Malignant neoplasm of unspecified part of unspecified bronchus or lung",
    "C56.9": "Malignant neoplasm of unspecified ovary",
    "C25.9": "Malignant neoplasm of pancreas, unspecified",
    "C61": "Malignant neoplasm of prostate",
    "C49.9": "Malignant neoplasm of connective and soft tissue, unspecified",
    "C16.9": "Malignant neoplasm of stomach, unspecified",
    "C54.1": "Malignant neoplasm of endometrium",
    "C78.00": "Secondary malignant neoplasm of unspecified lung",
    "C78.7": "Secondary malignant neoplasm of liver and intrahepatic bile duct",
    "C79.51": "Secondary malignant neoplasm of bone",
    "C79.31": "Secondary malignant neoplasm of brain",
    "C77.9": "Secondary and unspecified malignant neoplasm of lymph node, unspecified",
}
_SURGERY_NAMES = {  # our own words: CPT's descriptors are not ours to copy
    "51595": "Radical cystectomy",
    "50230": "Radical nephrectomy",
    "32480": "Lobectomy of the lung",
    "58956": "Ovarian debulking surgery",
    "48150": "Pancreatoduodenectomy",
    "55866": "Radical prostatectomy",
    "21557": "Radical resection of sarcoma",
    "43632": "Partial gastrectomy",
    "58571": "Total hysterectomy",
}


def concepts() -> list[Concept]:
    """The rows of `concept.csv`, in a fixed order (new concepts go at the end, or ids change)."""
    rows = [
        *demographics(),
        Concept("VISIT", "OUTPATIENT", "Outpatient visit", "Visit", "Visit"),
        Concept("VISIT", "INPATIENT", "Inpatient visit", "Visit", "Visit"),
        Concept("NOTE", "RADIOLOGY", "Radiology report", "Note", "Note"),
    ]
    icd = _ICD_NAMES | {code: name for code, (name, _) in COMORBIDITIES.items()}
    rows += named("ICD10CM", "Condition", "ICD10 code", icd)
    rows += named("RxNorm", "Drug", "Ingredient", {rxcui: name for name, (rxcui, *_) in DRUGS.items()})
    rows += named("CPT4", "Procedure", "CPT4", _SURGERY_NAMES)
    labs = {code: name for code, (name, *_) in LABS.items()}
    labs |= {key.partition("/")[2]: name for key, (name, *_) in MARKERS.items()}
    labs |= {WEIGHT.partition("/")[2]: "Body weight"}
    rows += named("LOINC", "Measurement", "Lab Test", labs)
    rows.append(Concept("LOINC", "89247-1", "ECOG Performance Status score", "Observation", "Survey"))
    for s in ("I", "II", "III", "IV"):
        rows.append(Concept("ONC", f"STAGE/{s}", f"Stage {s} at diagnosis", "Observation", "Staging"))
    for r, name in (("CR", "Complete"), ("PR", "Partial")):
        rows.append(Concept("ONC", f"RESPONSE/{r}", f"{name} response", "Observation", "RECIST"))
    rows.append(Concept("ONC", "RESPONSE/SD", "Stable disease", "Observation", "RECIST"))
    rows.append(Concept("ONC", "RESPONSE/PD", "Progressive disease", "Observation", "RECIST"))
    for site in SITES:
        name = f"Progression, {site.replace('_', ' ').lower()}"
        rows.append(Concept("ONC", f"PROGRESSION/{site}", name, "Observation", "Progression"))
    stopped = "Systemic therapy discontinued for toxicity"
    rows.append(Concept("ONC", "DISCONTINUATION", stopped, "Observation", "Treatment"))
    for t in TOXICITIES:
        rows.append(Concept("CTCAE", t, f"{t.capitalize()}, CTCAE grade", "Observation", "CTCAE"))
    return rows
