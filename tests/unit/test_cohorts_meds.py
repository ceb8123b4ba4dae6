"""MEDS datasets made elsewhere, as the standard's versions and their tools write them, read as they are."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import language_support
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cohorts_support import SHARED, Extracted
from language_support import EVENT, cohort, timed
from meds import CodeMetadataSchema, DataSchema, SubjectSplitSchema

from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.errors import DatasetError
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from ehr_assets.specs import parse_spec

REPOSITORY = Path(__file__).parents[2]
SPECS = REPOSITORY / "ehr_assets" / "cohorts" / "specs"
MIMIC = Path(os.environ.get("EHR_MIMIC_IV_ROOT") or SHARED / "mimic_iv_demo")
DAY_END = timedelta(days=1) - timedelta(microseconds=1)

BIRTH, LAB, DEATH = datetime(1950, 1, 1), datetime(2020, 1, 1, 10, 30), datetime(2020, 1, 5)
ROWS: list[dict[str, Any]] = [
    {"subject_id": 1, "time": None, "code": "GENDER//F", "numeric_value": None, "text_value": None},
    {"subject_id": 1, "time": BIRTH, "code": "MEDS_BIRTH", "numeric_value": None, "text_value": None},
    {"subject_id": 1, "time": LAB, "code": "LAB//1", "numeric_value": 1 / 3, "text_value": "a third"},
    {"subject_id": 1, "time": DEATH, "code": "MEDS_DEATH", "numeric_value": None, "text_value": None},
    {"subject_id": 2, "time": LAB, "code": "NOTE", "numeric_value": None, "text_value": "one\nline, two"},
]


def meds(**source: Any) -> CohortSpec:
    top = {k: source.pop(k) for k in ("splits", "subjects") if k in source}
    source = {"kind": "meds", "root_env": "EHR_M", "sections": {"^LAB//": "measurements"}, **source}
    return parse_spec(CohortSpec, {"name": "m", "title": "M", "source": source, **top}, "m.yaml")


def run(root: Path, work: Path, spec: CohortSpec | None = None) -> Extracted:
    spec = spec or meds()
    splits, out = work / "splits", work / "again"
    splits.mkdir(parents=True)
    out.mkdir()
    write_splits(spec, root, splits)
    return Extracted(out, extract_meds(spec, root, splits, out))


def table(rows: list[dict[str, Any]] = ROWS) -> pa.Table:
    """As the 0.4 standard has it."""
    return DataSchema.align(pa.Table.from_pylist(rows, DataSchema.schema()))


def as_0_3_0(aligned: pa.Table) -> pa.Table:
    return aligned.drop(["text_value"]).rename_columns(["patient_id", "time", "code", "numeric_value"])


def as_by_polars(aligned: pa.Table) -> pa.Table:
    """Large strings, categorical codes, nanoseconds, float64: strictly no MEDS, and common."""
    schema = pa.schema(
        [
            ("subject_id", pa.int64()),
            ("time", pa.timestamp("ns")),
            ("code", pa.dictionary(pa.uint32(), pa.large_string())),
            ("numeric_value", pa.float64()),
            ("text_value", pa.large_string()),
        ]
    )
    columns = [aligned[f.name].combine_chunks() for f in schema]
    columns[2] = columns[2].dictionary_encode()
    return pa.table([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def with_extra_columns(aligned: pa.Table) -> pa.Table:
    """Custom properties, among them lists and a `section` that means something else."""
    return (
        aligned.append_column("hadm_id", pa.array([7] * len(aligned), pa.int64()))
        .append_column("components", pa.array([["a"]] * len(aligned), pa.list_(pa.string())))
        .append_column("section", pa.array(["ward B"] * len(aligned), pa.string()))
    )


def without_values(aligned: pa.Table) -> pa.Table:
    return aligned.select(["subject_id", "time", "code"])


@pytest.mark.parametrize("form", [table, as_0_3_0, as_by_polars, with_extra_columns, without_values])
@pytest.mark.parametrize("shard", ["{split}/{n}", "{n}", "{split}/site-{n}/part"])
def test_datasets_of_all_versions_and_layouts(tmp_path, form, shard):
    aligned = table()
    made = aligned if form is table else form(aligned)
    for n, (split, part) in enumerate([("train", made.slice(0, 4)), ("held_out", made.slice(4))]):
        path = tmp_path / "d" / "data" / f"{shard.format(split=split, n=n)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, path)
    (tmp_path / "d" / "data" / "_shards.json").write_text("{}")
    got = run(tmp_path / "d", tmp_path)
    assert got.stats["quarantined"] == 0
    assert got.stats["events"] == len(ROWS)
    value, text = (1 / 3, "a third") if form not in (as_0_3_0, without_values) else (1 / 3, None)
    if form is without_values:
        value = None
    found = {r["code"]: r for r in got.events.to_dicts()}
    assert found["GENDER//F"]["time"] is None
    assert (found["LAB//1"]["time"], found["LAB//1"]["available_time"]) == (LAB, LAB)
    assert found["LAB//1"]["numeric_value"] == (pytest.approx(value) if value else None)
    assert found["LAB//1"]["text_value"] == text
    assert found["MEDS_DEATH"]["available_time"] == DEATH + DAY_END
    sections = {code: row["section"] for code, row in found.items()}
    assert sections == {
        "GENDER//F": "demographics",
        "MEDS_BIRTH": "demographics",
        "LAB//1": "measurements",
        "MEDS_DEATH": "death",
        "NOTE": "observations",
    }


def dataset(root: Path, aligned: pa.Table) -> Path:
    (root / "data").mkdir(parents=True)
    (root / "metadata").mkdir()
    pq.write_table(aligned, root / "data" / "0.parquet")
    return root


def test_what_the_dataset_says_about_its_codes(tmp_path):
    root = dataset(tmp_path / "d", table())
    codes = {
        "code": ["LAB//1", "NOTE", "ELSEWHERE"],
        "description": ["Sodium", None, "not here"],
        "parent_codes": [["LOINC/2951-2", "X"], [], ["Y"]],
    }
    pq.write_table(CodeMetadataSchema.align(pa.table(codes)), root / "metadata" / "codes.parquet")
    got = run(root, tmp_path)
    rows = {r["code"]: r for r in got.codes.to_dicts()}
    assert (rows["LAB//1"]["description"], rows["LAB//1"]["parent_codes"]) == (
        "Sodium",
        ["LOINC/2951-2", "X"],
    )
    assert rows["NOTE"]["parent_codes"] is None
    assert "ELSEWHERE" not in rows
    # 0.3.0 datasets may have no such file, or one with other columns.
    pq.write_table(pa.table({"code": ["LAB//1"], "n": [3]}), root / "metadata" / "codes.parquet")
    assert run(root, tmp_path / "b").codes["description"].null_count() == 5


def test_splits_of_the_dataset(tmp_path):
    root = dataset(tmp_path / "d", table())
    splits = {"subject_id": [1, 2], "split": ["test", "validation"]}
    pq.write_table(SubjectSplitSchema.align(pa.table(splits)), root / "metadata" / "subject_splits.parquet")
    given = {"file": "metadata/subject_splits", "names": {"validation": "tuning", "test": "held_out"}}
    got = run(root, tmp_path / "a", meds(splits={"given": given}))
    dealt = pl.read_parquet(got.out / "metadata" / "subject_splits.parquet")
    assert dealt.rows() == [(1, "held_out"), (2, "tuning")]
    with pytest.raises(DatasetError, match=r"splits\.given\.names"):
        run(root, tmp_path / "b", meds(splits={"given": {"file": "metadata/subject_splits"}}))


def test_what_is_no_event_is_quarantined(tmp_path):
    """Not a number is no number; other faults are told."""
    rows = [
        {"subject_id": 1, "time": LAB, "code": "A", "numeric_value": float("nan"), "text_value": None},
        {"subject_id": 1, "time": LAB, "code": "B", "numeric_value": float("inf"), "text_value": None},
        {"subject_id": 1, "time": LAB, "code": "", "numeric_value": None, "text_value": None},
        {"subject_id": 1, "time": LAB, "code": "C", "numeric_value": 1e30, "text_value": None},
    ]
    got = run(dataset(tmp_path / "d", table(rows)), tmp_path)
    assert got.reasons == [
        ("events", 2, "numeric_value", "unparsable number"),
        ("events", 3, "code", "no code"),
    ]
    assert dict(got.events.select("code", "numeric_value").rows()) == {"A": None, "C": pytest.approx(1e30)}
    assert got.balanced()


def test_the_built_in_spec(tmp_path):
    spec = load_cohort(SPECS / "meds_dataset.yaml")
    got = run(dataset(tmp_path / "d", table()), tmp_path, spec)
    assert got.stats["events"] == len(ROWS)


@pytest.fixture(scope="module")
def mimic(tmp_path_factory) -> Extracted:
    if not (MIMIC / "hosp").is_dir():
        pytest.skip("no MIMIC-IV tables: set EHR_MIMIC_IV_ROOT to their directory")
    spec = load_cohort(SPECS / "mimic_iv.yaml")
    return run(MIMIC, tmp_path_factory.mktemp("mimic"), spec)


def test_our_own_extraction_comes_back_event_by_event(mimic, tmp_path):
    first = mimic
    given = {"file": "metadata/subject_splits"}
    again = run(first.out, tmp_path, meds(splits={"given": given}))
    assert again.stats["quarantined"] == 0
    assert again.events.equals(first.events)
    described = again.codes.select("code", "description")
    assert described.equals(first.codes.select("code", "description"))
    for split in ("train", "tuning", "held_out"):
        folder = Path("data") / split
        ours = pl.concat([pl.read_parquet(p) for p in sorted((first.out / folder).glob("*.parquet"))])
        theirs = pl.concat([pl.read_parquet(p) for p in sorted((again.out / folder).glob("*.parquet"))])
        assert ours.equals(theirs)


def test_an_export_that_is_only_like_meds_is_a_table(tmp_path):
    """The reference export of the demo: `value` for numeric_value, static rows without a time."""
    if not (MIMIC / "reference_meds_events.parquet").is_file():
        pytest.skip("no reference export beside the MIMIC-IV demo")
    event = {"code": "{code}", "section": "observations", "value": "value"}
    data = {
        "name": "reference",
        "title": "Reference export",
        "source": {"kind": "tables", "root_env": "EHR_R"},
        "subjects": {"table": "events", "column": "subject_id", "one_row_each": False},
        "tables": [
            {
                "name": "events",
                "file": "reference_meds_events",
                "events": [
                    {**event, "static": True, "section": "demographics", "when": {"is_null": ["time"]}},
                    {
                        **event,
                        "time": {"column": "time", "midnight_is_day": True},
                        "when": {"not_null": ["time"]},
                    },
                ],
            }
        ],
    }
    got = run(MIMIC, tmp_path, parse_spec(CohortSpec, data, "reference.yaml"))
    raw = pl.read_parquet(MIMIC / "reference_meds_events.parquet")
    assert got.stats["quarantined"] == 0
    assert got.stats["subjects"] == raw["subject_id"].n_unique() == 100
    assert got.events.height == raw.height == 916_166
    assert got.events["numeric_value"].count() == raw["value"].count()


def test_any_meds_dataset_as_it_is(raw, tmp_path):
    """Our own output, read as a foreign dataset, comes back event by event; and one without extensions."""
    event = {
        **EVENT,
        "code": "LAB//{k}",
        "section": "measurements",
        "time": "at",
        "value": "v",
        "available": "late",
    }
    rows = "1,2020-01-01 10:00:00,a,1.1,2020-01-02\n2,2020-01-01,b,text,\n2,2020-01-05 00:00:00,b,0.333333,\n"
    first = language_support.run(raw(**{"t.csv": "id,at,k,v,late\n" + rows}), cohort(event))
    meds = {"name": "again", "title": "Again", "source": {"kind": "meds", "root_env": "EHR_M"}}
    again = language_support.run(first.out, parse_spec(CohortSpec, meds, "again.yaml"))
    assert again.events.equals(first.events)
    plain = tmp_path / "plain"
    for path in first.out.glob("data/*/*.parquet"):
        (plain / path.relative_to(first.out)).parent.mkdir(parents=True, exist_ok=True)
        old = pl.read_parquet(path).drop("available_time", "section", "text_value")
        old.write_parquet(plain / path.relative_to(first.out))
    meds["source"]["sections"] = {"^LAB//": "measurements"}
    bare = language_support.run(plain, parse_spec(CohortSpec, meds, "again.yaml"))
    expected = [(datetime(2020, 1, 1), datetime(2020, 1, 1) + DAY_END)]
    expected += [(datetime(2020, 1, 1, 10),) * 2, (datetime(2020, 1, 5), datetime(2020, 1, 5) + DAY_END)]
    assert sorted(timed(bare)) == expected
    assert set(bare.events.filter(pl.col("time").is_not_null())["section"]) == {"measurements"}
