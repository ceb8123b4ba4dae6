"""MIMIC-IV-ED and MIMIC-IV-Note, which the open demo lacks: their published columns, a few invented rows."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import Extracted, extract

from ehr_assets.cohorts.spec import load_cohort

SPEC = Path(__file__).parents[2] / "ehr_assets" / "cohorts" / "specs" / "mimic_iv.yaml"
DAY_END = timedelta(days=1) - timedelta(microseconds=1)
ROWS = {
    "hosp/patients": "subject_id,gender,anchor_age,anchor_year,dod\n1,F,50,2180,\n",
    "hosp/admissions": "subject_id,hadm_id,dischtime,deathtime\n1,22,2180-06-07 10:00:00,\n",
    "ed/edstays": """subject_id,hadm_id,stay_id,intime,outtime,gender,race,arrival_transport,disposition
1,,7,2180-05-06 19:17:00,2180-05-06 23:30:00,F,WHITE,AMBULANCE,HOME
1,22,8,2180-06-01 10:00:00,2180-06-01 20:00:00,F,WHITE,WALK IN,ADMITTED
""",
    "ed/triage": """subject_id,stay_id,temperature,heartrate,resprate,o2sat,sbp,dbp,pain,acuity,chiefcomplaint
1,7,98.4,70,16,,106,63,unable,3,"Abd pain, n/v"
""",
    "ed/vitalsign": """subject_id,stay_id,charttime,temperature,heartrate,resprate,o2sat,sbp,dbp,rhythm,pain
1,7,2180-05-06 21:00:00,,85,16,99,,,Sinus Rhythm,4
""",
    "ed/diagnosis": """subject_id,stay_id,seq_num,icd_code,icd_version,icd_title
1,7,1,78959,9,OTHER ASCITES
1,8,1,5712,9,ALCOHOL CIRRHOSIS LIVER
""",
    "ed/medrecon": """subject_id,stay_id,charttime,name,gsn,ndc,etc_rn,etccode,etcdescription
1,7,2180-05-06 19:30:00,furosemide,8205,33342,1,3750,Diuretic - Loop
1,7,2180-05-06 19:30:00,furosemide,8205,33342,2,591,Other group
""",
    "ed/pyxis": """subject_id,stay_id,charttime,med_rn,name,gsn_rn,gsn
1,7,2180-05-06 22:00:00,1,Morphine,1,4080
1,7,2180-05-06 22:00:00,1,Morphine,2,4081
""",
    "note/discharge": """note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text
1-DS-5,1,22,DS,5,2180-05-07 00:00:00,2180-05-09 15:26:00,"Name:  ___
Allergies: none"
1-DS-6,1,23,DS,6,2180-06-07 00:00:00,,Second
""",
    "note/radiology": """note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text
1-RR-9,1,,RR,9,2180-05-06 21:19:00,2180-05-06 23:00:00,No pneumonia.
1-RR-10,1,,RR,10,2180-05-06 22:00:00,,Unsigned.
""",
    "note/radiology_detail": """note_id,subject_id,field_name,field_value,field_ordinal
1-RR-9,1,exam_code,C11,1
1-RR-9,1,exam_name,CHEST (PA & LAT),1
1-RR-9,1,cpt_code,71020,1
""",
}


@pytest.fixture(scope="module")
def got(tmp_path_factory) -> Extracted:
    root, work = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("work")
    for file, text in ROWS.items():
        path = root / f"{file}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    spec = load_cohort(SPEC)
    tables = [t for t in spec.tables if t.name == "patients" or t.file.startswith(("ed/", "note/"))]
    return extract(root, work, spec.model_copy(update={"tables": tables}))


def found(got: Extracted, code: str) -> list[tuple]:
    rows = got.events.filter(pl.col("code") == code)
    return rows.select(
        "time", "available_time", pl.coalesce(pl.col("numeric_value").cast(str), "text_value")
    ).rows()


def test_every_table_is_read(got):
    assert got.stats["absent_tables"] == []
    assert got.stats["quarantined"] == 0
    assert set(got.accounting["table"]) == {
        "patients",
        *("edstays", "triage", "vitalsign", "ed_diagnosis", "medrecon", "pyxis"),
        *("discharge", "radiology", "radiology_detail"),
    }


def test_a_stay_in_the_emergency_department(got):
    begin, end = datetime(2180, 5, 6, 19, 17), datetime(2180, 5, 6, 23, 30)
    assert found(got, "ED_ARRIVAL//AMBULANCE") == [(begin, begin, None)]
    assert found(got, "ED_DISPOSITION//HOME") == [(end, end, None)]
    # What was coded for billing is known when the stay is over.
    assert found(got, "ED_DIAGNOSIS//ICD//9//78959") == [(end, end, None)]


def test_diagnoses_of_who_was_admitted_wait_for_the_discharge_from_the_hospital(got):
    end, discharged = datetime(2180, 6, 1, 20), datetime(2180, 6, 7, 10)
    assert found(got, "ED_DISPOSITION//ADMITTED") == [(end, end, None)]
    assert found(got, "ED_DIAGNOSIS//ICD//9//5712") == [(end, discharged, None)]


def test_triage_is_known_an_hour_after_arrival(got):
    begin = datetime(2180, 5, 6, 19, 17)
    known = begin + timedelta(hours=1)
    later = datetime(2180, 5, 6, 21)
    assert found(got, "ED_VITAL//heartrate") == [(begin, known, "70.0"), (later, later, "85.0")]
    assert found(got, "ED_VITAL//o2sat") == [(later, later, "99.0")]
    assert found(got, "ED_PAIN") == [(begin, known, "unable"), (later, later, "4.0")]
    assert found(got, "ED_CHIEF_COMPLAINT") == [(begin, known, "Abd pain, n/v")]
    assert found(got, "ED_RHYTHM") == [(later, later, "Sinus Rhythm")]


def test_a_drug_in_several_groups_is_one_event(got):
    assert len(found(got, "HOME_MEDICATION//furosemide")) == 1
    assert len(found(got, "ED_MEDICATION//Morphine")) == 1


def test_notes_are_known_when_they_are_stored(got):
    day, second = datetime(2180, 5, 7), datetime(2180, 6, 7)
    assert found(got, "NOTE//DS") == [
        (day, datetime(2180, 5, 9, 15, 26), "Name:  ___\nAllergies: none"),
        (second, second + DAY_END, "Second"),
    ]
    exam = datetime(2180, 5, 6, 21, 19)
    assert found(got, "NOTE//RR") == [
        (exam, datetime(2180, 5, 6, 23), "No pneumonia."),
        (datetime(2180, 5, 6, 22), datetime(2180, 5, 7, 22), "Unsigned."),
    ]
    assert found(got, "RADIOLOGY_EXAM//CHEST (PA & LAT)") == [(exam, exam, None)]
