"""Vital signs and laboratory values by LOINC, as the acute simulators (embolism, ICU) measure them.

What belongs here: names, units, spread between persons and reading noise. What a state makes of their levels
is in `pe_views.py` and `icu_views.py`. Levels of `log` analytes are natural logs.
"""

from ehr_assets.cohorts.synthetic.tables import Concept, named
from ehr_assets.cohorts.synthetic.views import Analyte, Delay

HEART_RATE, SYSTOLIC, MEAN_PRESSURE = "LOINC/8867-4", "LOINC/8480-6", "LOINC/8478-0"
RESPIRATION, SATURATION, TEMPERATURE = "LOINC/9279-1", "LOINC/59408-5", "LOINC/8310-5"
GCS, URINE, FIO2, WEIGHT = "LOINC/9269-2", "LOINC/9187-6", "LOINC/3150-6", "LOINC/29463-7"
LACTATE, CREATININE, UREA = "LOINC/2524-7", "LOINC/2160-0", "LOINC/3094-0"
HEMOGLOBIN, PLATELETS, LEUKOCYTES = "LOINC/718-7", "LOINC/777-3", "LOINC/6690-2"
SODIUM, POTASSIUM, BICARBONATE = "LOINC/2951-2", "LOINC/2823-3", "LOINC/1963-8"
BILIRUBIN, INR, PH, PAO2 = "LOINC/1975-2", "LOINC/6301-6", "LOINC/2744-1", "LOINC/2703-7"
D_DIMER, TROPONIN, BNP = "LOINC/48065-7", "LOINC/6598-7", "LOINC/33762-6"

#                                                                             person noise
ANALYTES: dict[str, Analyte] = {
    HEART_RATE: Analyte("Heart rate", "/min", 8.0, 4.5, low=25, high=220),
    SYSTOLIC: Analyte("Systolic blood pressure", "mm[Hg]", 11.0, 7.0, low=40, high=240),
    MEAN_PRESSURE: Analyte("Mean blood pressure", "mm[Hg]", 6.0, 4.5, low=25, high=160),
    RESPIRATION: Analyte("Respiratory rate", "/min", 2.0, 1.8, low=4, high=60),
    SATURATION: Analyte("Oxygen saturation in Arterial blood by Pulse oximetry", "%", 0.8, 1.1, high=100),
    TEMPERATURE: Analyte("Body temperature", "Cel", 0.15, 0.22, low=32, high=42),
    GCS: Analyte("Glasgow coma score total", "{score}", 0.0, 0.6, low=3, high=15),
    URINE: Analyte("Urine output", "mL", 0.15, 0.35, log=True),
    FIO2: Analyte("Inhaled oxygen concentration", "%", 0.0, 3.0, low=21, high=100),
    WEIGHT: Analyte("Body weight", "kg", 0.18, 0.01, log=True),
    LACTATE: Analyte("Lactate [Moles/volume] in Serum or Plasma", "mmol/L", 0.15, 0.15, log=True, low=0.3),
    CREATININE: Analyte("Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 0.25, 0.08, log=True),
    UREA: Analyte("Urea nitrogen [Mass/volume] in Serum or Plasma", "mg/dL", 0.25, 0.1, log=True),
    HEMOGLOBIN: Analyte("Hemoglobin [Mass/volume] in Blood", "g/dL", 1.0, 0.4, low=3),
    PLATELETS: Analyte("Platelets [#/volume] in Blood by Automated count", "10*3/uL", 0.25, 0.1, log=True),
    LEUKOCYTES: Analyte("Leukocytes [#/volume] in Blood by Automated count", "10*3/uL", 0.25, 0.15, log=True),
    SODIUM: Analyte("Sodium [Moles/volume] in Serum or Plasma", "mmol/L", 2.2, 1.2, low=100, high=180),
    POTASSIUM: Analyte("Potassium [Moles/volume] in Serum or Plasma", "mmol/L", 0.25, 0.25, low=2, high=8),
    BICARBONATE: Analyte("Bicarbonate [Moles/volume] in Serum or Plasma", "mmol/L", 1.4, 1.1, low=4, high=45),
    BILIRUBIN: Analyte("Bilirubin.total [Mass/volume] in Serum or Plasma", "mg/dL", 0.35, 0.12, log=True),
    INR: Analyte("INR in Platelet poor plasma by Coagulation assay", "{INR}", 0.08, 0.06, log=True),
    PH: Analyte("pH of Arterial blood", "[pH]", 0.015, 0.02, low=6.7, high=7.7),
    PAO2: Analyte("Oxygen [Partial pressure] in Arterial blood", "mm[Hg]", 0.1, 0.14, log=True, low=25),
    D_DIMER: Analyte("Fibrin D-dimer FEU [Mass/volume] in Plasma", "ug/mL", 0.5, 0.25, log=True),
    TROPONIN: Analyte("Troponin T.cardiac [Mass/volume] in Serum or Plasma", "ng/mL", 0.5, 0.25, log=True),
    BNP: Analyte("Natriuretic peptide.B prohormone N-Terminal in Serum", "pg/mL", 0.6, 0.22, log=True),
}  # fmt: skip
VITAL_SIGNS = frozenset(
    {HEART_RATE, SYSTOLIC, MEAN_PRESSURE, RESPIRATION, SATURATION, TEMPERATURE, GCS, URINE, FIO2, WEIGHT}
)

# Monitors and nurses file within the hour, laboratories within hours, now and then the next day.
CHARTED = Delay(0.3, 0.01, 0.3)
REPORTED = Delay(1.5, 0.02, 0.7)


def filing(key: str) -> Delay:
    """How late a value of this kind is filed."""
    return CHARTED if key in VITAL_SIGNS else REPORTED


def analyte_concepts(analytes: dict[str, Analyte]) -> list[Concept]:
    """Their rows of `concept.csv`."""
    names: dict[str, dict[str, str]] = {}
    for key, analyte in analytes.items():
        vocabulary, code = key.split("/", 1)
        names.setdefault(vocabulary, {})[code] = analyte.name
    return [c for v, of in names.items() for c in named(v, "Measurement", "Clinical Observation", of)]
