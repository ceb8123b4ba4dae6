"""TCGA, the real files: the counts of the data's README, each beside a plain reading of the raw text."""

import csv
import os
import re
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import SHARED, Extracted

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits

REPOSITORY = Path(__file__).parents[2]
TCGA = SHARED / "tcga"
SPEC = REPOSITORY / "ehr_assets" / "cohorts" / "specs" / "tcga.yaml"
GIVEN = os.environ.get("EHR_TCGA_ROOT")
PATIENT = "bcr_patient_barcode"

pytestmark = pytest.mark.skipif(
    not (Path(GIVEN) / "biotab" if GIVEN else TCGA / "biotab.tar.gz").exists(),
    reason="no TCGA tables: set EHR_TCGA_ROOT to a directory with biotab/*.txt and cdr.csv.gz",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    if GIVEN:
        return Path(GIVEN)
    unpacked = tmp_path_factory.mktemp("tcga")
    with tarfile.open(TCGA / "biotab.tar.gz") as archive:
        archive.extractall(unpacked, filter="data")
    shutil.copy(TCGA / "cdr.csv.gz", unpacked)
    return unpacked


@pytest.fixture(scope="module")
def tcga(root, tmp_path_factory) -> Extracted:
    spec = load_cohort(SPEC)
    splits, out = tmp_path_factory.mktemp("splits"), tmp_path_factory.mktemp("meds")
    write_splits(spec, root, splits)
    got = Extracted(out, extract_meds(spec, root, splits, out))
    ids = pl.read_parquet(splits / "subject_ids.parquet").rename({"raw_id": "barcode"})
    got.events = got.events.join(ids, on="subject_id")
    return got


class Raw:
    """The biotab files by plain means: rows as dicts by the first header line."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def rows(self, kind: str) -> Iterator[dict[str, str]]:
        for path in sorted((self.root / "biotab").glob("*.txt")):
            if not re.search(rf"_clinical_{kind}_[a-z]+\.txt$", path.name):
                continue
            data = path.read_bytes()
            try:
                text = data.decode()
            except UnicodeDecodeError:
                text = data.decode("latin-1")
            lines = [
                line for line in csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE) if line
            ]
            for line in lines[3:]:
                yield dict(zip(lines[0], line, strict=True)) | {"file": path.name}

    def patients(self, column: str, *kinds: str, number: str = r"-?\d+") -> set[str]:
        return {
            row[PATIENT]
            for kind in kinds
            for row in self.rows(kind)
            if re.fullmatch(number, row.get(column, ""))
        }


FOLLOW_UP = r"follow_up_v[\d.]+"
NTE, FOLLOW_UP_NTE = "nte", r"follow_up_v[\d.]+_nte"
DAY, OLD_DAY = "new_tumor_event_dx_days_to", "days_to_new_tumor_event_after_initial_treatment"


@pytest.fixture(scope="module")
def raw(root) -> Raw:
    return Raw(root)


def having(tcga: Extracted, pattern: str) -> pl.DataFrame:
    return tcga.events.filter(pl.col("code").str.contains(pattern))


def test_every_row_is_accounted_for(tcga, raw):
    """What is quarantined has no day, or no form; nothing was misread."""
    assert tcga.balanced()
    assert tcga.stats["subjects"] == tcga.events["subject_id"].n_unique() == 11_167
    assert tcga.stats["reasons"] == {"no time": 868, "unknown subject": 5}
    tables = tcga.stats["tables"]
    assert {name: row["quarantined"] for name, row in tables.items() if row["quarantined"]} == {
        "drugs": 430,
        "radiation": 109,
        "follow_ups": 287,
        "new_tumors_on_follow_ups": 2,
        "new_tumors_at_enrolment": 40,
        "curated_outcomes": 5,
    }
    assert {name: row["read"] for name, row in tables.items()} == {
        "patients": 11_167,
        "drugs": 12_571,
        "radiation": 3_976,
        "ablation": 58,
        "other_malignancies": 1_232,
        "follow_ups": 12_534,
        "new_tumors_on_follow_ups": 12_534,
        "new_tumors_at_enrolment": 2_213,
        "new_tumors_of_follow_ups": 2_563,
        "curated_outcomes": 11_165,
    }
    assert sum(1 for _ in raw.rows("patient")) == 11_167
    assert sum(1 for _ in raw.rows("drug")) == 12_571


def test_thirty_three_cancers(tcga):
    cancers = having(tcga, "^DIAGNOSIS//")
    assert cancers.height == 11_167
    assert cancers["code"].n_unique() == 33


def test_drug_starts(tcga, raw):
    starts = having(tcga, r"^(ANCILLARY_)?DRUG//START//")
    assert (starts.height, starts["subject_id"].n_unique()) == (12_014, 4_182)
    assert set(starts["barcode"]) == raw.patients("pharmaceutical_tx_started_days_to", "drug")
    told = [r["pharmaceutical_therapy_drug_name"].upper() for r in raw.rows("drug")]
    agents = {c.split("//")[2] for c in starts["code"]}
    assert len(set(told)) > 850
    assert len(agents) < 430
    assert not agents & {"TAXOL", "TEMODAR", "CYTOXAN", "5-FU", "HERCEPTIN", "AVASTIN"}


def test_radiation_starts(tcga, raw):
    """3,779 is the count of one column; in OV the starts lie in a column of another name."""
    starts = having(tcga, "^RADIATION//START//")
    ovarian = set(having(tcga, "^DIAGNOSIS//OV$")["subject_id"])
    in_ovarian = starts["subject_id"].is_in(list(ovarian)).sum()
    assert (starts.height, in_ovarian, starts.height - in_ovarian) == (3_812, 33, 3_779)
    assert set(starts["barcode"]) == raw.patients(
        "radiation_therapy_started_days_to", "radiation"
    ) | raw.patients("days_to_radiation_therapy_start", "radiation")


def test_new_tumours(tcga, raw):
    """3,331 patients have a day that is a number; 20 more have only lists of days, such as ``845|951``."""
    sheets = (NTE, FOLLOW_UP_NTE, FOLLOW_UP)
    plain = raw.patients(DAY, *sheets) | raw.patients(OLD_DAY, *sheets)
    several = r"\d+(\|\d+)+"
    listed = raw.patients(DAY, *sheets, number=several) | raw.patients(OLD_DAY, *sheets, number=several)
    found = set(having(tcga, "^NEW_TUMOR//")["barcode"])
    assert len(plain) == 3_331
    assert found == plain | listed
    assert len(found) == 3_351


def test_metastases(tcga, raw):
    """971 by single values; with those in lists, 995."""
    plain, all_ = set(), set()
    for kind in (NTE, FOLLOW_UP_NTE, FOLLOW_UP):
        for row in raw.rows(kind):
            days = row.get(DAY, "") if DAY in row else row.get(OLD_DAY, "")
            what = row.get("new_tumor_event_type", row.get("new_neoplasm_event_type", ""))
            if "metasta" in what.lower() and re.fullmatch(r"-?\d+(\|\d+)*", days):
                all_.add(row[PATIENT])
                if "|" not in days:
                    plain.add(row[PATIENT])
    found = having(tcga, "^NEW_TUMOR//.*METASTA")
    assert len(plain) == 971
    assert set(found["barcode"]) == all_
    assert len(all_) == 995


def test_deaths(tcga, raw):
    """3,440 is the count of one column; COAD, OV, READ and others call it `days_to_death`."""
    forms = ("patient", FOLLOW_UP)
    new, old = raw.patients("death_days_to", *forms), raw.patients("days_to_death", *forms)
    deaths = having(tcga, "^MEDS_DEATH$")
    assert len(new) == 3_440
    assert deaths.height == deaths["subject_id"].n_unique() == 3_602
    assert set(deaths["barcode"]) == new | old


def test_days_are_counted_from_the_year_of_diagnosis(tcga, raw):
    """Every death, against the curated table where it has one, else against the forms."""
    frame = pl.read_csv(raw.root / "cdr.csv.gz", infer_schema=False)
    curated = {
        row[PATIENT]: int(float(row["death_days_to"]))
        for row in frame.select(PATIENT, "death_days_to").to_dicts()
        if re.fullmatch(r"\d+(\.0)?", row["death_days_to"] or "")
    }
    assert len(frame) == 11_165
    years, told = {}, defaultdict(set)
    for row in raw.rows("patient"):
        year = row.get("initial_pathologic_dx_year", row.get("year_of_initial_pathologic_diagnosis", ""))
        years[row[PATIENT]] = int(year) if year.isdigit() else 2000
    for kind in ("patient", FOLLOW_UP):
        for row in raw.rows(kind):
            day = row.get("death_days_to", row.get("days_to_death", ""))
            if day.isdigit():
                told[row[PATIENT]].add(int(day))
    deaths = having(tcga, "^MEDS_DEATH$").with_columns(
        year=pl.col("barcode").replace_strict(years, return_dtype=pl.Int32)
    )
    days = (pl.col("time").dt.date() - pl.date("year", 1, 1)).dt.total_days()
    for barcode, day in deaths.select("barcode", days).rows():
        assert day in ({curated[barcode]} if barcode in curated else told[barcode])


def test_nothing_of_a_form_precedes_what_it_tells(tcga):
    """Facts of a form that tells a death stand on that day, though its last contact was earlier."""
    deaths = having(tcga, "^MEDS_DEATH$").select("subject_id", death="time")
    causes = having(tcga, "^CAUSE_OF_DEATH//").join(deaths, on="subject_id", how="left")
    assert causes.height > 340  # 143 of them from the enrolment form
    assert (causes["time"].dt.date() == causes["death"].dt.date()).all()
    pathology = having(tcga, "^(STAGE|PATHOLOGIC_[TNM]|GRADE|NODES_POSITIVE|RESIDUAL_TUMOR)")
    waited = (pathology["available_time"] - pathology["time"]).dt.total_days()
    assert (waited == 30).all()


def test_only_prior_malignancies_are_told_at_the_diagnosis(tcga, raw):
    """A synchronous one may be found years later; of an undated one nobody knows when."""
    rows = [(r["malignancy_type"].upper(), r["other_malignancy_dx_days_to"]) for r in raw.rows("omf_v4.0")]
    told = having(tcga, "^OTHER_MALIGNANCY//")
    undated, history = "^OTHER_MALIGNANCY//HISTORY//", having(tcga, "^OTHER_MALIGNANCY//HISTORY//")
    prior = [day for kind, day in rows if kind == "PRIOR MALIGNANCY" and not re.fullmatch(r"-?\d+", day)]
    assert history.height == len(prior) == 586
    dated = told.filter(pl.col("code").str.count_matches("//") == 2, ~pl.col("code").str.contains(undated))
    assert dated.height == sum(bool(re.fullmatch(r"-?\d+", day)) for _, day in rows)
    answers = told.filter(pl.col("code").str.count_matches("//") == 1)
    contact = having(tcga, "^FOLLOW_UP$").select("subject_id", "time").unique()
    later = answers.filter(pl.col("code") != "OTHER_MALIGNANCY//YES, HISTORY OF PRIOR MALIGNANCY")
    assert answers.height - later.height == 148
    assert set(later["code"]) > {"OTHER_MALIGNANCY//YES", "OTHER_MALIGNANCY//NO"}
    assert later.join(contact, on=["subject_id", "time"], how="anti").is_empty()
