"""PhysioNet/CinC 2012, set A as published: every record beside an independent reading of the text files."""

import csv
import os
import tarfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import SHARED, Extracted

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits

REPOSITORY = Path(__file__).parents[2]
ARCHIVE = SHARED / "physionet2012_set_a.tar.gz"
SPEC = REPOSITORY / "ehr_assets" / "cohorts" / "specs" / "physionet2012.yaml"
GIVEN = os.environ.get("EHR_PHYSIONET2012_ROOT")
START = datetime(2000, 1, 1)

pytestmark = pytest.mark.skipif(
    not (Path(GIVEN) / "Outcomes-a.txt" if GIVEN else ARCHIVE).exists(),
    reason="no PhysioNet 2012 records: set EHR_PHYSIONET2012_ROOT (set-a/ and Outcomes-a.txt)",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    if GIVEN:
        return Path(GIVEN)
    unpacked = tmp_path_factory.mktemp("physionet")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(unpacked, filter="data")
    return unpacked


@pytest.fixture(scope="module")
def stays(root, tmp_path_factory) -> Extracted:
    spec = load_cohort(SPEC)
    splits, out = tmp_path_factory.mktemp("splits"), tmp_path_factory.mktemp("meds")
    write_splits(spec, root, splits)
    return Extracted(out, extract_meds(spec, root, splits, out))


@pytest.fixture(scope="module")
def outcomes(root) -> list[dict[str, int]]:
    with (root / "Outcomes-a.txt").open() as file:
        return [{k: int(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_every_row_of_every_file_is_accounted_for(stays, root, outcomes):
    rows, said = 0, Counter()
    for path in (root / "set-a").glob("*.txt"):
        lines = path.read_text().splitlines()[1:]
        rows += len(lines)
        said.update(p for p, v in (line.split(",")[1:] for line in lines) if v not in ("-1", ""))
    tables = stays.stats["tables"]
    assert (tables["outcomes"]["read"], tables["stays"]["read"]) == (len(outcomes), rows) == (4_000, rows)
    assert stays.stats["quarantined"] == 0
    assert stays.stats["subjects"] == stays.events["subject_id"].n_unique() == 4_000
    # What was said of each parameter is an event; -1 is none.
    made = Counter(stays.events["code"].to_list())
    descriptors = {"RecordID", "Age", "Gender", "ICUType"}
    assert {p: n for p, n in said.items() if p not in descriptors and n} == {
        p: made[p] for p in said if p not in descriptors and said[p]
    }
    assert made["AGE"] == 4_000
    assert sum(n for code, n in made.items() if code.startswith("ICU_ADMISSION//")) == 4_000
    genders = {c: n for c, n in made.items() if c.startswith("GENDER//")}
    assert sum(genders.values()) == 4_000
    assert genders["GENDER//UNKNOWN"] == 3


def test_a_stay_by_hand(stays, root):
    """Every line of one file, in order, at its minute."""
    path = sorted((root / "set-a").glob("*.txt"))[0]
    expected = []
    for line in path.read_text().splitlines()[1:]:
        clock, parameter, value = line.split(",")
        hours, minutes = map(int, clock.split(":"))
        if parameter not in ("RecordID", "Age", "Gender", "ICUType") and value != "-1":
            expected.append((START + timedelta(hours=hours, minutes=minutes), parameter, float(value)))
    names = {parameter for _, parameter, _ in expected}
    own = stays.events.filter((pl.col("subject_id") == int(path.stem)) & pl.col("code").is_in(list(names)))
    got = sorted(own.select("time", "code", "numeric_value").rows())
    assert [(t, c, pytest.approx(v, rel=1e-6)) for t, c, v in sorted(expected)] == got
    assert (own["available_time"] == own["time"]).all()


def test_outcomes_are_known_when_they_happened(stays, outcomes):
    """Deaths stand at the end of the day of survival; scores and discharges never within the 48 hours."""
    deaths = dict(stays.events.filter(pl.col("code") == "MEDS_DEATH").select("subject_id", "time").rows())
    end = timedelta(days=1) - timedelta(microseconds=1)
    assert deaths == {
        o["RecordID"]: START + timedelta(days=o["Survival"]) + end for o in outcomes if o["Survival"] > 0
    }
    # Three stays are said to have died on day 0 and to have left the hospital alive.
    assert [o["RecordID"] for o in outcomes if o["Survival"] == 0] == [133628, 136022, 139060]
    died = stays.events.filter(pl.col("code") == "HOSPITAL_DISCHARGE//DIED")
    assert set(died["subject_id"]) == {o["RecordID"] for o in outcomes if o["In-hospital_death"]}
    assert died.height == 554
    assert all(t.date() == deaths[s].date() for s, t in died.select("subject_id", "time").rows())
    left = stays.events.filter(pl.col("code") == "HOSPITAL_DISCHARGE//ALIVE")
    told = {o["RecordID"] for o in outcomes if not o["In-hospital_death"] and o["Length_of_stay"] >= 0}
    assert set(left["subject_id"]) == told
    after = stays.events.filter(pl.col("code").is_in(["SAPS_I", "SOFA"]))
    ends = pl.concat([died, left]).select("subject_id", end="available_time")
    assert after.height > 7_000
    compared = after.join(ends, on="subject_id", how="left")
    assert (compared["available_time"] == compared["end"]).all()


def test_units_and_names_of_the_codes(stays):
    codes = {row["code"]: row for row in stays.codes.to_dicts()}
    assert (codes["K"]["description"], codes["K"]["unit"]) == ("Serum potassium", "mEq/L")
    assert (codes["GCS"]["description"], codes["GCS"]["unit"]) == ("Glasgow Coma Score", None)
    plain = [c for c in codes if "//" not in c and c not in ("AGE", "MEDS_DEATH", "SAPS_I", "SOFA")]
    assert len(plain) == 38
    assert all(codes[c]["description"] for c in plain)
