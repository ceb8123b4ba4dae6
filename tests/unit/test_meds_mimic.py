"""The real MIMIC-IV demo, end to end: counts that can be checked against the raw tables."""

import os
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import SHARED

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.frames import validate_meds
from ehr_assets.meds.splits import write_splits

REPOSITORY = Path(__file__).parents[2]
ROOT = Path(os.environ.get("EHR_MIMIC_IV_ROOT") or SHARED / "mimic_iv_demo")
SPEC = REPOSITORY / "ehr_assets" / "cohorts" / "specs" / "mimic_iv.yaml"

pytestmark = pytest.mark.skipif(
    not (ROOT / "hosp").is_dir(), reason="no MIMIC-IV tables: set EHR_MIMIC_IV_ROOT to their directory"
)


def raw(table: str, *columns: str) -> pl.DataFrame:
    return pl.read_csv(ROOT / f"{table}.csv.gz", infer_schema=False, columns=list(columns) or None)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    spec = load_cohort(SPEC)
    if raw("hosp/patients").height > 1000:
        pytest.skip("EHR_MIMIC_IV_ROOT holds more than the demo")
    splits, out = tmp_path_factory.mktemp("splits"), tmp_path_factory.mktemp("meds")
    write_splits(spec, ROOT, splits)
    stats = extract_meds(spec, ROOT, splits, out)
    return out, stats, pl.concat([pl.read_parquet(p) for p in sorted(out.glob("data/*/*.parquet"))])


def test_every_row_of_every_table_is_accounted_for(demo):
    out, stats, events = demo
    tables = {t.name: t.file for t in load_cohort(SPEC).tables}
    for row in pl.read_parquet(out / "accounting.parquet").to_dicts():
        assert row["read"] == raw(tables[row["table"]], "subject_id").height, row
        assert row["accepted"] + row["quarantined"] == row["read"], row
    assert stats["quarantined"] == 0  # the demo is clean: a quarantined row is a mistake in the spec
    modules = {t.name for t in load_cohort(SPEC).tables if t.file.startswith(("ed/", "note/"))}
    assert set(stats["absent_tables"]) == modules
    assert validate_meds(out) == events.height == stats["events"]


def test_subjects_admissions_stays_and_deaths(demo):
    _, stats, events = demo

    def count(pattern):
        return events.filter(pl.col("code").str.contains(pattern)).height

    assert stats["subjects"] == events["subject_id"].n_unique() == 100
    assert count("^HOSPITAL_ADMISSION//") == count("^HOSPITAL_DISCHARGE//") == 275
    assert count("^ICU_ADMISSION//") == count("^ICU_DISCHARGE//") == 140
    assert count("^MEDS_BIRTH$") == 100
    dead = raw("hosp/patients").filter(pl.col("dod").is_not_null())["subject_id"].cast(pl.Int64)
    deaths = events.filter(pl.col("code") == "MEDS_DEATH")
    assert deaths["subject_id"].sort().to_list() == dead.sort().to_list()
    assert count("^HOSPITAL_DISCHARGE//DIED$") == 15
    assert count("^DIAGNOSIS//ICD//") == 4506
    charted = raw("icu/chartevents", "value")["value"].is_not_null().sum()
    assert count("^CHART//") == charted


def test_what_is_known_only_at_discharge_is_not_known_before(demo):
    _, _, events = demo
    admissions = raw("hosp/admissions").select(
        pl.col("subject_id").cast(pl.Int64),
        *(pl.col(c).str.to_datetime(time_unit="us") for c in ("admittime", "dischtime", "deathtime")),
    )
    billed = events.filter(pl.col("code").str.contains("^(DIAGNOSIS|DRG|PROCEDURE//ICD|HCPCS)//"))
    ends = admissions.select("subject_id", end=pl.max_horizontal("dischtime", "deathtime"))
    known = billed.join(
        ends, left_on=["subject_id", "available_time"], right_on=["subject_id", "end"], how="semi"
    )
    later = billed.filter(pl.col("available_time").dt.time() == pl.time(23, 59, 59, 999999))
    # A handful of procedures are charted on a day after the discharge: known at the end of that day.
    assert known.height + later.height == billed.height
    assert later.height == 4
    died = events.filter(pl.col("code") == "HOSPITAL_DISCHARGE//DIED").join(
        events.filter(pl.col("code") == "MEDS_DEATH").select("subject_id", death="time"), on="subject_id"
    )
    assert (died["available_time"] >= died["death"]).all()


def test_labs_are_available_when_they_were_stored(demo):
    _, _, events = demo
    labs = raw("hosp/labevents", "charttime", "storetime").with_columns(
        pl.all().str.to_datetime(time_unit="us")
    )
    # Without a storetime, nobody knows it as it is drawn: a day later.
    stored = pl.coalesce("storetime", pl.col("charttime") + pl.duration(hours=24))
    assert labs["storetime"].null_count() == 992
    expected = labs.select(pl.max_horizontal("charttime", stored).alias("t")).to_series().sort()
    assert (
        events.filter(pl.col("code").str.starts_with("LAB//"))["available_time"]
        .sort()
        .equals(expected, check_names=False)
    )


def test_no_culture_is_read_as_it_is_drawn(demo):
    _, _, events = demo
    cultures = events.filter(pl.col("code").str.starts_with("MICROBIOLOGY//"))
    assert cultures.height == raw("hosp/microbiologyevents", "subject_id").height
    assert (cultures["available_time"] > cultures["time"]).all()


def test_results_that_stand_in_the_comments_are_read(demo):
    _, _, events = demo
    labs = events.filter(pl.col("code").str.starts_with("LAB//"))
    rows = raw("hosp/labevents", "value", "valuenum", "comments")
    empty = rows.filter(
        pl.all_horizontal(pl.col(c).str.strip_chars().fill_null("").is_in(["", "___"]) for c in rows.columns)
    )
    assert (
        labs.filter(pl.col("numeric_value").is_null() & pl.col("text_value").is_null()).height == empty.height
    )
    assert empty.height < 500 < labs["text_value"].is_not_null().sum()
    assert "___" not in labs["text_value"].drop_nulls().to_list()


def test_doses_come_with_their_administrations(demo):
    _, _, events = demo
    details = raw("hosp/emar_detail", "dose_given", "infusion_rate").with_columns(
        pl.when(pl.all() != "___").then(pl.all())
    )
    for code, column in (("^DOSE_GIVEN//", "dose_given"), ("^INFUSION_RATE//", "infusion_rate")):
        given = events.filter(pl.col("code").str.contains(code))
        assert given.height == details[column].is_not_null().sum()
        assert given["numeric_value"].is_not_null().all()
    # Each at the moment of its administration, and known when that was.
    when = ["subject_id", "time", "available_time"]
    given = events.filter(pl.col("code").str.contains("^(DOSE_GIVEN|INFUSION_RATE)//")).select(when)
    administered = events.filter(pl.col("code").str.starts_with("MEDICATION//"))
    assert given.join(administered.select(when), on=when, how="anti").is_empty()


def test_orders_are_known_when_they_are_entered(demo):
    _, _, events = demo
    orders = raw("hosp/poe", "subject_id", "ordertime", "order_type", "transaction_type").filter(
        (pl.col("transaction_type") == "New") & ~pl.col("order_type").is_in(["Medications", "Lab", "TPN"])
    )
    expected = orders.select(pl.col("subject_id").cast(pl.Int64), pl.col("ordertime").str.to_datetime())
    found = events.filter(pl.col("code").str.starts_with("ORDER//"))
    assert sorted(found.select("subject_id", "available_time").rows()) == sorted(expected.rows())
    code_status = events.filter(pl.col("code").str.starts_with("ORDER_DETAIL//Code status//"))
    assert code_status.height == 242


def test_a_prescription_is_known_when_the_pharmacy_has_it(demo):
    _, _, events = demo
    orders = raw("hosp/prescriptions", "pharmacy_id", "starttime").join(
        raw("hosp/pharmacy", "pharmacy_id", "entertime"), on="pharmacy_id", how="left"
    )
    times = orders.select(pl.col("starttime", "entertime").str.to_datetime(time_unit="us")).drop_nulls(
        "starttime"
    )
    expected = times.select(pl.max_horizontal("starttime", "entertime").alias("t")).to_series().sort()
    found = events.filter(pl.col("code").str.starts_with("MEDICATION//START//"))["available_time"].sort()
    assert found.equals(expected, check_names=False)
    # Nearly every order of the pharmacy is one of those; the rest is parenteral nutrition.
    assert set(events.filter(pl.col("code").str.starts_with("PHARMACY//"))["code"]) == {"PHARMACY//TPN//UNK"}
