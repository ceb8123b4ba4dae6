"""OMOP CDM: both versions from a few rows, and the MIMIC-IV demo compared with its native tables."""

import os
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import SHARED, Extracted, extract

from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.nodes.triggers import find_nodes

REPOSITORY = Path(__file__).parents[2]
NATIVE = Path(os.environ.get("EHR_MIMIC_IV_ROOT") or SHARED / "mimic_iv_demo")
OMOP = Path(os.environ.get("EHR_MIMIC_IV_OMOP_ROOT") or SHARED / "mimic_iv_demo_omop" / "tables")
DAY_END = timedelta(days=1) - timedelta(microseconds=1)

CONCEPTS = """concept_id,concept_name,vocabulary_id,concept_code
0,No matching concept,None,No matching concept
8507,MALE,Gender,M
9201,Inpatient Visit,Visit,IP
9202,Outpatient Visit,Visit,OP
1,Essential hypertension,SNOMED,59621000
2,Essential (primary) hypertension,ICD10CM,I10
3,Hemoglobin,LOINC,718-7
4,gram per deciliter,UCUM,g/dL
5,Positive,SNOMED,10828004
32821,EHR billing record,Type Concept,OMOP4976890
32840,EHR problem list,Type Concept,OMOP4976909
32824,EHR discharge summary,Type Concept,OMOP4976893
32903,Primary discharge diagnosis,Condition Status,OMOP4822266
32891,Cause of death,Condition Status,OMOP4822254
4171756,<,SNOMED,276139006
6,Disease episode,Episode,first
7,Pathology report,Note Class,path
"""
PERSON = """person_id,gender_concept_id,year_of_birth,race_concept_id,ethnicity_concept_id,\
month_of_birth,day_of_birth
-5,8507,1950,0,0,2,3
6,0,1960,0,0,,
"""
# 5.3 calls the two columns admitting_source_value and discharge_to_source_value.
VISIT = """visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,\
visit_end_date,visit_end_datetime,{from_},{to}
10,-5,9201,2020-01-01,2020-01-01 10:00:00,2020-01-05,2020-01-05 00:00:00,CLINIC,REHAB
11,-5,9202,2020-02-01,,2020-02-01,,,
"""
CONDITION = """person_id,visit_occurrence_id,condition_concept_id,condition_start_date,\
condition_start_datetime,condition_type_concept_id,condition_source_value,condition_source_concept_id
-5,10,1,2020-01-01,2020-01-01 10:00:00,32821,I10,2
-5,10,1,2020-01-02,2020-01-02 11:00:00,32840,x,0
-5,,0,2020-03-01,2020-03-01 12:00:00,32821,250.00 ,0
6,,999,2020-03-01,,32840,,0
"""
MEASUREMENT = """person_id,measurement_concept_id,measurement_date,measurement_type_concept_id,\
value_as_number,value_as_concept_id,unit_concept_id,unit_source_value,value_source_value
6,3,2020-03-01,32821,13.5,,4,g/dl,
6,3,2020-03-02,32821,,5,,,pos
6,3,2020-03-03,32821,,,,g,++
"""
DEATH = "person_id,death_date,cause_concept_id\n6,2020-04-01,1\n"
EPISODE = """person_id,episode_concept_id,episode_start_date,episode_object_concept_id
6,6,2020-03-01,1
"""


def omop(name: str = "omop") -> CohortSpec:
    return load_cohort(REPOSITORY / "ehr_assets" / "cohorts" / "specs" / f"{name}.yaml")


def tables(root: Path, **files: str) -> Path:
    root.mkdir()
    for name, text in {"concept": CONCEPTS, "person": PERSON, **files}.items():
        (root / f"{name}.csv").write_text(text)
    return root


def found(got: Extracted, code: str) -> list[tuple]:
    rows = got.events.filter(pl.col("code") == code)
    return rows.select("time", "available_time").rows()


@pytest.fixture(params=["5.3", "5.4"])
def small(request, tmp_path) -> Extracted:
    names = {"5.3": ("admitting_source_value", "discharge_to_source_value")}
    from_, to = names.get(request.param, ("admitted_from_source_value", "discharged_to_source_value"))
    files = {"visit_occurrence": VISIT.format(from_=from_, to=to), "condition_occurrence": CONDITION}
    files |= {"measurement": MEASUREMENT, "death": DEATH}
    if request.param == "5.4":
        files["EPISODE"] = EPISODE.upper()  # as a database may export it
    got = extract(tables(tmp_path / "raw", **files), tmp_path, omop())
    assert got.stats["quarantined"] == 0
    assert ("episode" in got.stats["absent_tables"]) == (request.param == "5.3")
    return got


def test_no_record_is_lost_for_want_of_a_concept(small):
    """The source concept's code, else the standard concept's, else the source value, else the number."""
    codes = (
        small.events.filter(pl.col("section") == "conditions").sort("subject_id", "time")["code"].to_list()
    )
    assert codes == ["ICD10CM/I10", "SNOMED/59621000", "CONDITION/250.00", "CONDITION/999"]
    assert dict(small.codes.select("code", "description").rows())["ICD10CM/I10"].startswith("Essential (pri")


def test_billing_records_are_known_when_the_visit_is_over(small):
    assert found(small, "ICD10CM/I10") == [(datetime(2020, 1, 1, 10), datetime(2020, 1, 5) + DAY_END)]
    assert found(small, "SNOMED/59621000") == [(datetime(2020, 1, 2, 11),) * 2]
    assert found(small, "CONDITION/250.00") == [
        (datetime(2020, 3, 1, 12), datetime(2020, 3, 31) + DAY_END)  # no visit: 30 days
    ]
    assert found(small, "CONDITION/999") == [(datetime(2020, 3, 1), datetime(2020, 3, 1) + DAY_END)]


@pytest.mark.parametrize("vocabulary", [True, False])
@pytest.mark.parametrize(
    ("type_", "status", "late"),
    [
        (32840, 0, False),
        (32840, 32907, False),  # secondary admission diagnosis
        (32824, 0, True),
        (32823, "", True),  # discharge record, not in this extract's vocabulary
        (32840, 32903, True),
        (32840, 32896, True),
        (32840, 4230359, True),
        (38000199, 0, True),  # inpatient header - primary
        (38000245, 0, False),  # problem list entry
        (32840, 32891, "by its name"),
    ],
)
def test_a_discharge_diagnosis_is_known_at_the_discharge(tmp_path, vocabulary, type_, status, late):
    head = (
        "person_id,visit_occurrence_id,condition_concept_id,condition_start_date,condition_type_concept_id,"
    )
    rows = f"-5,10,0,2020-01-01,{type_},{status},C1\n-5,,0,2020-01-01,{type_},{status},C2\n"
    condition = f"{head}condition_status_concept_id,condition_source_value\n{rows}"
    files = {"visit_occurrence": VISIT.format(from_="a", to="b"), "condition_occurrence": condition}
    if not vocabulary:
        files["concept"] = CONCEPTS.splitlines()[0] + "\n"
    got = extract(tables(tmp_path / "raw", **files), tmp_path, omop())
    late = vocabulary if late == "by its name" else late
    known = [datetime(2020, 1, 5), datetime(2020, 1, 31)] if late else [datetime(2020, 1, 1)] * 2
    assert found(got, "CONDITION/C1") == [(datetime(2020, 1, 1), known[0] + DAY_END)]
    assert found(got, "CONDITION/C2") == [(datetime(2020, 1, 1), known[1] + DAY_END)]


def test_a_limit_is_no_value(tmp_path):
    head = "person_id,measurement_concept_id,measurement_date,value_as_number,operator_concept_id\n"
    operators = ("", 0, 4172703, 4171756, 4172704)
    rows = "".join(f"6,3,2020-03-0{i},0.0{i},{operator}\n" for i, operator in enumerate(operators, 1))
    got = extract(tables(tmp_path / "raw", measurement=head + rows), tmp_path, omop())
    values = got.events.filter(pl.col("section") == "measurements").sort("time")
    assert values["code"].to_list() == [
        *["LOINC/718-7"] * 3,
        "LOINC/718-7//<",
        "LOINC/718-7//4172704",  # not in this extract's vocabulary
    ]
    assert values["numeric_value"].round(2).to_list() == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])


def test_what_was_given_out_has_not_the_unit_of_the_dose(tmp_path):
    head = "person_id,drug_concept_id,drug_exposure_start_date,drug_source_value,quantity,"
    drugs = (
        head
        + "dose_unit_source_value,quantity_unit\n6,0,2020-03-01,D,30,mg,tablet\n6,0,2020-03-01,E,30,mg,\n"
    )
    got = extract(tables(tmp_path / "raw", drug_exposure=drugs), tmp_path, omop())
    units = pl.read_parquet(got.out / "quality" / "units.parquet")
    assert units.select("code", "unit").rows() == [("DRUG/D", "tablet")]


def test_visits_begin_and_end(small):
    assert found(small, "VISIT_START//Visit/IP") == [(datetime(2020, 1, 1, 10),) * 2]
    assert found(small, "VISIT_END//Visit/IP") == [(datetime(2020, 1, 5) + DAY_END,) * 2]
    assert found(small, "ADMITTED_FROM//CLINIC") == [(datetime(2020, 1, 1, 10),) * 2]
    assert found(small, "DISCHARGED_TO//REHAB") == [(datetime(2020, 1, 5) + DAY_END,) * 2]
    assert found(small, "VISIT_START//Visit/OP") == [(datetime(2020, 2, 1), datetime(2020, 2, 1) + DAY_END)]
    assert not found(small, "VISIT_END//Visit/OP")


def test_values_and_units(small):
    rows = small.events.filter(pl.col("code") == "LOINC/718-7").select("numeric_value", "text_value").rows()
    assert rows == [(13.5, None), (None, "Positive"), (None, "++")]
    units = pl.read_parquet(small.out / "quality" / "units.parquet")
    assert units.select("unit", "rows").sort("unit").rows() == [(None, 1), ("g", 1), ("g/dL", 1)]


def test_birth_and_death(small):
    assert sorted(found(small, "MEDS_BIRTH")) == [
        (datetime(1950, 2, 3), datetime(1950, 2, 3)),
        (datetime(1960, 1, 1), datetime(1960, 1, 1)),
    ]
    assert found(small, "MEDS_DEATH") == [(datetime(2020, 4, 1) + DAY_END,) * 2]
    assert found(small, "CAUSE_OF_DEATH//SNOMED/59621000") == [(datetime(2020, 4, 1) + DAY_END,) * 2]


def test_parquet_with_types_and_parts(tmp_path, small):
    """As Spark and pandas write a CDM: folders of parts, dates as dates, and ids with nulls as floats."""
    raw = tmp_path / "typed"
    for path in (tmp_path / "raw").glob("*.csv"):
        frame = pl.read_csv(path, try_parse_dates=True)
        name = path.stem.lower()
        if name == "episode":
            frame = frame.rename(str.lower)
        for column in frame.columns:
            if column.endswith("_concept_id") or column == "visit_occurrence_id":
                frame = frame.with_columns(pl.col(column).cast(pl.Float64))
        (raw / name).mkdir(parents=True)
        half = frame.height // 2
        frame[:half].write_parquet(raw / name / "part-0.parquet")
        frame[half:].write_parquet(raw / name / "part-1.parquet")
    (tmp_path / "again").mkdir()
    again = extract(raw, tmp_path / "again", omop())
    assert again.events.equals(small.events)


def test_an_episode_is_written_afterwards(tmp_path):
    got = extract(tables(tmp_path / "raw", episode=EPISODE), tmp_path, omop())
    at = datetime(2020, 3, 1)
    assert found(got, "EPISODE//first//SNOMED/59621000") == [(at, at + timedelta(days=180) + DAY_END)]


def test_notes_and_a_column_beyond_the_standard(tmp_path):
    head = "person_id,note_date,note_datetime,note_type_concept_id,note_class_concept_id,note_text,"
    head += "filed_datetime\n"
    note = "6,2020-03-01,2020-03-01 08:00:00,0,7,No tumour.,2020-03-04 09:30:00\n6,2020-03-05,,0,0,Seen.,\n"
    got = extract(tables(tmp_path / "raw", note=head + note), tmp_path, omop())
    assert found(got, "NOTE//Note Class/path") == [(datetime(2020, 3, 1, 8), datetime(2020, 3, 4, 9, 30))]
    assert found(got, "NOTE//SOURCE/0") == [(datetime(2020, 3, 5), datetime(2020, 3, 5) + DAY_END)]


# ------------------------------------------------------------------- the same 100 people in two data models


pairs = pytest.mark.skipif(
    not (NATIVE / "hosp").is_dir() or not list(OMOP.glob("person.csv*")),
    reason="no MIMIC-IV demo in both forms: set EHR_MIMIC_IV_ROOT and EHR_MIMIC_IV_OMOP_ROOT",
)


class Pair:
    """Events of both forms under the native subject ids."""

    def __init__(self, work: Path) -> None:
        person = pl.read_csv(OMOP / "person.csv", infer_schema=False)
        to_native = person.select(
            pl.col("person_id").cast(pl.Int64).alias("subject_id"),
            pl.col("person_source_value").cast(pl.Int64).alias("native"),
        )
        (work / "omop").mkdir()
        (work / "native").mkdir()
        self.got = {
            "omop": extract(OMOP, work / "omop", omop("mimic_iv_omop")),
            "native": extract(NATIVE, work / "native", omop("mimic_iv")),
        }
        self.work = work
        self.native = self.got["native"].events
        self.omop = (
            self.got["omop"]
            .events.join(to_native, on="subject_id", how="left")
            .with_columns(subject_id="native")
        )
        self.to_native = to_native

    def times(self, side: str, code: str) -> set[tuple[int, datetime]]:
        events = getattr(self, side).filter(pl.col("code").str.contains(code))
        return set(events.select("subject_id", "time").rows())

    def splits(self, side: str) -> dict[int, str]:
        return dict(pl.read_parquet(self.work / side / "splits" / "subject_splits.parquet").rows())


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Pair:
    if pl.read_csv(NATIVE / "hosp" / "patients.csv.gz", infer_schema=False).height > 1000:
        pytest.skip("EHR_MIMIC_IV_ROOT holds more than the demo")
    return Pair(tmp_path_factory.mktemp("pair"))


@pairs
def test_the_same_subjects_in_the_same_splits(both):
    assert both.got["omop"].stats["quarantined"] == 0
    assert both.got["omop"].balanced()
    native = both.splits("native")
    omop_ids = dict(both.to_native.rows())
    assert {omop_ids[person]: split for person, split in both.splits("omop").items()} == native
    for code in ("^MEDS_BIRTH$", "^GENDER//"):
        sides = [getattr(both, s).filter(pl.col("code").str.contains(code)) for s in ("omop", "native")]
        rows = [set(side.select("subject_id", "time", "code").rows()) for side in sides]
        assert rows[0] == rows[1]


@pairs
def test_the_same_admissions(both):
    """Every stay ends at the same minute, and begins with the admission or the emergency room."""
    native_ends, omop_ends = both.times("native", "^HOSPITAL_DISCHARGE//"), both.times("omop", "^VISIT_END//")
    assert len(native_ends) == 275
    # Three of those who died were discharged at exactly midnight, which in OMOP may be a day without time.
    as_days = {(s, t) for s, t in omop_ends if t.time() == (datetime.min + DAY_END).time()}
    assert len(as_days) == 3
    omop_ends = omop_ends - as_days | {(s, t - DAY_END) for s, t in as_days}
    # Same-day observation counts as an outpatient visit in OMOP, and those have no end.
    admissions = both.native.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION//"))
    same_day = admissions.filter(pl.col("code").str.contains("//AMBULATORY OBSERVATION//"))
    assert same_day.height == 5
    assert omop_ends < native_ends
    assert {s for s, _ in native_ends - omop_ends} == set(same_day["subject_id"])
    assert len(native_ends - omop_ends) == 5
    starts = both.times("omop", "^VISIT_START//")
    entered = both.times("native", "^ED_REGISTRATION$")
    admitted = set(admissions.select("subject_id", "time").rows())
    kinds = both.omop.filter(pl.col("code").str.starts_with("VISIT_KIND//"))
    outpatient = kinds.filter(pl.col("code") == "VISIT_KIND//AMBULATORY OBSERVATION")
    stays = starts - set(outpatient.select("subject_id", "time").rows())
    assert stays <= entered | admitted
    assert len(stays) == 270
    per_subject = admissions.group_by("subject_id").len().sort("subject_id")
    found = pl.DataFrame(sorted(stays | set(same_day.select("subject_id", "time").rows())), orient="row")
    assert per_subject.rows() == found.group_by("column_0").len().sort("column_0").rows()


@pairs
def test_the_same_discharges_are_decision_nodes(both, tmp_path):
    """The generic triggers on visits find what the triggers on MIMIC's own codes find."""
    days = {}
    for side, name in (("omop", "mimic_iv_omop"), ("native", "mimic_iv")):
        (tmp_path / side).mkdir()
        spec = omop(name)
        assert spec.decision_nodes
        find_nodes(spec.decision_nodes, name, both.got[side].out, tmp_path / side)
        nodes = pl.read_parquet(tmp_path / side / "nodes.parquet")
        discharge = pl.element().str.contains("discharge")
        nodes = nodes.filter(pl.col("trigger").list.eval(discharge).list.any())
        days[side] = set(nodes.select("subject_id", pl.col("time").dt.date()).rows())
    ids = dict(both.to_native.rows())
    found = {(ids[person], day) for person, day in days["omop"]}
    assert found < days["native"]
    assert len(days["native"] - found) == 5  # same-day observation, an outpatient visit in OMOP


@pairs
def test_the_same_deaths_in_hospital(both):
    """The OMOP release knows only those; the native one also what state records told within a year."""
    native, from_omop = dict(both.times("native", "^MEDS_DEATH$")), dict(both.times("omop", "^MEDS_DEATH$"))
    died_here = {s for s, _ in both.times("native", "^HOSPITAL_DISCHARGE//DIED$")}
    assert len(native) == 31
    assert set(from_omop) == died_here
    assert len(died_here) == 15
    assert {s: t.date() for s, t in from_omop.items()} == {s: native[s].date() for s in died_here}
    # Four discharges were stamped at the first minute of the day of death, and OMOP took that for the death.
    other_minute = {s for s in died_here if from_omop[s] != native[s]}
    assert len(other_minute) == 4
    discharged = dict(both.times("native", "^HOSPITAL_DISCHARGE//DIED$"))
    assert all(discharged[s].hour == 0 and discharged[s].minute <= 1 for s in other_minute)


@pairs
def test_the_same_diagnoses(both):
    """Whatever OMOP has, MIMIC has; what it lacks are codes that are no conditions in its vocabulary."""

    def coded(side: str, code: str) -> set[tuple[int, date, str]]:
        events = getattr(both, side).filter(pl.col("code").str.contains(code))
        icd = pl.col("code").str.extract(r"([^/]+)$").str.replace_all(r"[. ]", "")
        return set(events.select("subject_id", pl.col("available_time").dt.date(), icd).rows())

    # Keyed by the day on which the code became known: that of the discharge, in both.
    billed = pl.read_csv(next(OMOP.glob("condition_occurrence.csv*")), infer_schema=False)
    billed = billed.filter(pl.col("condition_type_concept_id") == "32821")
    icd = "|".join(sorted(set(billed["condition_source_value"].str.strip_chars())))
    ours, theirs = coded("omop", f"^CONDITION/({icd})$"), coded("native", "^DIAGNOSIS//ICD//")
    assert len(theirs) > 4400
    assert ours <= theirs
    with_version = both.native.filter(pl.col("code").str.starts_with("DIAGNOSIS//ICD//")).select(
        "subject_id",
        pl.col("available_time").dt.date(),
        pl.col("code").str.extract(r"([^/]+)$").alias("icd"),
        "code",
    )
    kept = {code for *key, code in with_version.rows() if tuple(key) in ours}
    lost = {code for *key, code in with_version.rows() if tuple(key) not in ours}
    assert not kept & lost, "a code is mapped always or never"
    # Status and history (V, Z), external causes (E, V to Y), findings and poisonings (7, R, T): rows
    # of OMOP's observation and measurement, which this release lacks. E is of ICD-9: external causes, too.
    assert {code.split("//")[3][0] for code in lost} == set("ZVEY7TWRX")
    assert all(code.split("//")[2] == "9" or code.split("//")[3] > "R" for code in lost)
    assert len(theirs - ours) / len(theirs) < 0.2
