"""The MEDS suite: silent on a clean frame, and each planted violation is caught by its own expectation."""

import shutil
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from meds_support import DAY, Frame, record, row, static

from ehr_assets.contracts import SPLITS
from ehr_assets.errors import DatasetError
from ehr_assets.fanout import Machine
from ehr_assets.meds.audit import schema_problems
from ehr_assets.meds.facts import bundles
from ehr_assets.meds.footers import outline
from ehr_assets.meds.frames import MEDS_SCHEMA, SORT_BY, UNITS_FILE, validate_meds
from ehr_assets.meds.quality_spec import QualitySpec
from ehr_assets.meds.suites import meds_suite, validate

VALUES = {"min_values": 20, "spread": 5, "tolerance": 0.05, "codes_tolerance": 0.3}
SPEC = QualitySpec.model_validate(
    {"values": VALUES, "window": {"first": "2019-12-01", "last": "2020-12-31"}, "duplicate_tolerance": 0.002}
)
NAMES = [e.name for e in meds_suite(SPEC)]
SKIPPED = {"units_consistent", "volume_like_last_time"}


def failed(root: Path, spec=SPEC, previous=None, workers=2) -> dict[str, dict]:
    """The counts of the expectations that failed."""
    verdicts = validate(root, spec, Machine(workers=workers), previous)
    assert [v.name for v in verdicts] == NAMES
    return {v.name: dict(v.counts) for v in verdicts if not v.passed}


def test_a_clean_frame_passes_and_says_what_it_could_not_ask(tmp_path):
    root = Frame().write(tmp_path)
    verdicts = {v.name: v for v in validate(root, SPEC, Machine(workers=2))}
    assert all(v.passed for v in verdicts.values())
    assert {name for name, v in verdicts.items() if v.note} == SKIPPED
    assert verdicts["subject_id_present"].counts == {"of": "events", "checked": 28 * 63, "unexpected": 0}
    assert verdicts["values_in_train_range"].counts["checked"] == 2
    assert verdicts["values_in_train_range"].counts["numbers"] == 28 * 60


def test_without_a_window_that_expectation_is_skipped(tmp_path):
    spec = QualitySpec(values=SPEC.values)
    verdict = {v.name: v for v in validate(Frame().write(tmp_path), spec, Machine())}[
        "within_extraction_window"
    ]
    assert verdict.passed
    assert "declares no extraction window" in verdict.note


def _swap(frame):
    rows = frame.files["train/0"]
    rows[10], rows[11] = rows[11], rows[10]


def _move_half(frame):
    """A subject goes on in a second file, whose split is the same."""
    rows = frame.files["train/0"]
    mine = [r for r in rows if r[0] == 3]
    frame.files["train/0"] = [r for r in rows if r not in mine[30:]]
    frame.files["train/1"] = mine[30:]


PLANTED = {
    "subject_id_present": lambda f: f.add(row(None, 5)),
    "code_present": lambda f: f.add(row(2, 5.5, None)),
    "section_present": lambda f: f.add(row(2, 5.5, section=None)),
    "section_known": lambda f: f.add(row(2, 5.5, section="labs")),
    "available_not_before_time": lambda f: f.add(row(2, 5.5, later=-1)),
    "availability_known": lambda f: f.add(
        [2, DAY + timedelta(5.5), "LAB//1", None, None, None, "measurements"]
    ),
    "static_rows_are_demographics": lambda f: f.add(static(2, "conditions")),
    "numbers_finite": lambda f: f.add(row(2, 5.5, value=float("nan"))),
    "within_extraction_window": lambda f: f.add(row(2, -32)),
    "sorted_by_subject_and_time": _swap,
    "subject_in_one_file": _move_half,
    "one_birth_at_most": lambda f: f.add(row(2, -9_999, "MEDS_BIRTH", section="demographics")),
    "one_death_at_most": lambda f: f.add(row(2, 70.5, "MEDS_DEATH", section="death")),
    "nothing_long_after_death": lambda f: f.add(row(2, 101), row(2, 102)),
    "subjects_have_a_split": lambda f: f.splits.pop(26),
    "codes_listed": lambda f: f.codes.remove("LAB//0"),
    "few_exact_duplicates": lambda f: f.add(*(r for r in record(4) if r[1] and 0 < (r[1] - DAY).days < 5)),
    "values_in_train_range": lambda f: f.add(
        *(row(27, i + 0.5, "LAB//0", 4000.0) for i in range(50)), file="held_out/0"
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_violation_is_caught_by_its_own_expectation_alone(tmp_path, name):
    frame = Frame()
    PLANTED[name](frame)
    found = failed(frame.write(tmp_path))
    assert list(found) == [name]
    assert found[name]["unexpected"] == 1


def test_an_event_before_birth_is_caught(tmp_path):
    frame = Frame()
    frame.add(row(2, -10_001))
    found = failed(frame.write(tmp_path), QualitySpec(values=SPEC.values))
    assert list(found) == ["nothing_before_birth"]


def test_every_expectation_has_its_planted_violation():
    elsewhere = {"column_types", "events_not_empty", "nothing_before_birth", *SKIPPED}
    assert set(NAMES) == set(PLANTED) | elsewhere


def test_what_runs_over_the_edge_of_a_file_is_no_disorder(tmp_path):
    frame = Frame()
    rows = frame.files.pop("train/0")
    # Later subjects first: files are in no order among each other.
    frame.files["train/0"] = [r for r in rows if r[0] > 10]
    frame.files["train/1"] = [r for r in rows if r[0] <= 10]
    root = frame.write(tmp_path)
    assert failed(root, workers=1) == {}
    assert len(bundles(sorted(root.glob("data/*/*.parquet")), 1)) == 1


def test_counts_beside_the_verdict(tmp_path):
    frame = Frame()
    frame.add(row(2, 101), row(2, 102), row(3, 99.9))
    found = failed(frame.write(tmp_path))["nothing_long_after_death"]
    assert found["events_after_death_and_grace"] == 2  # the third is within the grace
    assert found["checked"] == 28
    tolerant = SPEC.model_copy(update={"after_death_tolerance": 0.05})
    assert failed(tmp_path, tolerant) == {}


def test_columns_of_another_type_are_caught_and_nothing_else_is_asked(tmp_path):
    frame = Frame()
    at = MEDS_SCHEMA.get_field_index("section")
    frame.schema = MEDS_SCHEMA.set(at, pa.field("section", pa.large_string()))
    verdicts = {v.name: v for v in validate(frame.write(tmp_path), SPEC, Machine())}
    assert verdicts["column_types"].counts["unexpected"] == 3  # files
    assert not any(v.passed for v in verdicts.values()), "a gate must not open on what was not asked"
    assert "Not asked" in verdicts["codes_listed"].note


def test_an_empty_frame_fails_only_for_being_empty(tmp_path):
    frame = Frame()
    frame.files = {f"{split}/0": [] for split in SPLITS}
    assert set(failed(frame.write(tmp_path))) == {"events_not_empty"}


def test_a_folder_without_event_files_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no event files"):
        validate(tmp_path, SPEC, Machine())


UNITS = [("LAB//0", "mg/dL", 95), ("LAB//0", "MG / DL", 3), ("LAB//0", None, 40), ("LAB//1", "g", 10)]


@pytest.mark.parametrize(("more", "bad"), [(("LAB//0", "mmol/L", 1), 0), (("LAB//0", "mmol/L", 5), 1)])
def test_units_of_a_code(tmp_path, more, bad):
    root = Frame().write(tmp_path)
    rows = [(code, unit, "train", n) for code, unit, n in [*UNITS, more]]
    (root / UNITS_FILE).parent.mkdir()
    pl.DataFrame(rows, schema=["code", "unit", "split", "rows"], orient="row").write_parquet(
        root / UNITS_FILE
    )
    spec = SPEC.model_copy(update={"unit_tolerance": 0.02})
    verdict = {v.name: v for v in validate(root, spec, Machine())}["units_consistent"]
    assert verdict.passed is not bool(bad)
    expected = {"of": "codes with a unit", "checked": 2, "unexpected": bad, "codes_with_several_units": 1}
    assert verdict.counts == expected


def test_ranges_are_fitted_on_train_alone(tmp_path):
    """The same strange numbers are out of range in held_out, and make the range when train has them."""

    def plant(file: str, subject: int) -> Path:
        frame = Frame()
        frame.add(*(row(subject, i / 20, "LAB//1", 4000.0) for i in range(200)), file=file)
        return frame.write(tmp_path / file.replace("/", "_"))

    assert "values_in_train_range" in failed(plant("held_out/0", 27))
    assert "values_in_train_range" not in failed(plant("train/0", 2))


@pytest.mark.parametrize(
    ("train", "other", "outside"),
    [
        ([1.0] * 30, [1.0, 5.9, 7.0, -3.9, -6.0], 2),  # one value: five times itself on both sides
        ([-(100.0 + i) for i in range(30)], [-101.0, -1.0, 90.0, -400.0], 2),
        ([0.0] * 30, [0.0, 0.1, -0.1], 0),  # no scale, no range
        ([float(i) for i in range(1, 101)], [560.0, -460.0, 460.0, -300.0], 2),
    ],
)
def test_ranges_by_hand(tmp_path, train, other, outside):
    frame = Frame()
    frame.codes.append("X")
    frame.add(*(row(2, 1 + i / 1000, "X", v) for i, v in enumerate(train)))
    frame.add(*(row(27, 1 + i / 1000, "X", v) for i, v in enumerate(other)), file="held_out/0")
    verdict = {v.name: v for v in validate(frame.write(tmp_path), SPEC, Machine())}["values_in_train_range"]
    assert verdict.counts["numbers_outside"] == outside


def test_a_month_that_collapsed_or_exploded_since_last_time_is_flagged(tmp_path):
    before = Frame().write(tmp_path / "before")
    fewer = Frame()
    fewer.files["train/0"] = [r for r in fewer.files["train/0"] if not (r[1] and r[1].month == 1 and r[3])]
    root = fewer.write(tmp_path / "now")
    assert failed(before, previous=before) == {}
    spec = SPEC.model_copy(update={"volume": SPEC.volume.model_copy(update={"min_events": 50})})
    found = failed(root, spec, previous=before)
    assert list(found) == ["volume_like_last_time"]
    assert (
        found["volume_like_last_time"]["months_collapsed"],
        found["volume_like_last_time"]["unexpected"],
    ) == (1, 1)
    assert failed(before, spec, previous=root)["volume_like_last_time"]["months_exploded"] == 1


def test_a_month_that_vanished_since_last_time_is_flagged(tmp_path):
    """But for those before the first there is now, and the last there was."""

    def frame(name: str, *months: int) -> Path:
        kept = Frame()
        for file, rows in kept.files.items():
            kept.files[file] = [r for r in rows if not r[1] or r[1].year < 2020 or r[1].month in months]
        kept.add(*(row(2, 70 + i / 100) for i in range(100 if 3 in months else 0)))
        return kept.write(tmp_path / name)

    whole = frame("whole", 1, 2, 3)
    spec = SPEC.model_copy(update={"volume": SPEC.volume.model_copy(update={"min_events": 50})})
    found = failed(frame("no_february", 1, 3), spec, previous=whole)
    assert list(found) == ["volume_like_last_time"]
    assert found["volume_like_last_time"]["months_collapsed"] == 1
    assert failed(frame("no_january", 2, 3), spec, previous=whole) == {}
    assert failed(frame("no_march", 1, 2), spec, previous=whole) == {}


def test_no_value_code_or_id_comes_out(tmp_path):
    frame = Frame()
    frame.add(row(4711, 5, "SECRET", 31337.0, text="secret words"), file="held_out/0")
    for verdict in validate(frame.write(tmp_path), SPEC, Machine()):
        told = repr(verdict)
        assert not any(word in told for word in ("4711", "SECRET", "secret", "31337"))


def test_as_many_verdicts_whatever_the_workers(tmp_path):
    frame = Frame()
    _swap(frame)
    root = frame.write(tmp_path)
    assert validate(root, SPEC, Machine(workers=1)) == validate(root, SPEC, Machine(workers=4))


@pytest.mark.parametrize("statistics", [True, False])
def test_files_are_held_against_the_meds_schemas_by_their_footers(tmp_path, statistics):
    root = Frame().write(tmp_path)
    (root / "metadata" / "dataset.json").write_text("{}")
    assert schema_problems(root) == {}
    assert validate_meds(root) == 28 * 63
    path = root / "data" / "tuning" / "0.parquet"
    table = pq.read_table(path)
    nulls = pa.array([None, *table["code"].to_pylist()[1:]], pa.string())
    spoilt = table.set_column(2, "code", nulls)
    pq.write_table(spoilt, path, row_group_size=100, write_statistics=statistics)
    assert schema_problems(root) == {"data/tuning/0.parquet": "TableValidationError"}
    pq.write_table(table.drop_columns("code"), path)
    assert list(schema_problems(root)) == ["data/tuning/0.parquet"]
    pq.write_table(table, path)
    shutil.copy(path, root / "data" / "tuning" / "1.parquet")
    with pytest.raises(DatasetError, match="in two files"):
        validate_meds(root)


def test_the_outline_has_nulls_where_the_file_has(tmp_path):
    columns = {"some": [1, None, 3], "all": [None] * 3, "none": ["a", "b", "c"], "lists": [["x"], None, []]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = outline(tmp_path / "t.parquet")
    assert [found[c].null_count for c in columns] == [1, 2, 0, 2]
    assert found.schema.equals(pq.read_schema(tmp_path / "t.parquet"))


def test_windows_and_ranges_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="before `first`"):
        QualitySpec.model_validate({"window": {"first": date(2020, 1, 2), "last": date(2020, 1, 1)}})
    with pytest.raises(ValueError, match="`first`, `last` or both"):
        QualitySpec.model_validate({"window": {}})


def test_the_sort_order_makes_repeated_events_neighbours():
    assert set(SORT_BY) == set(MEDS_SCHEMA.names), "facts.py finds exact duplicates as neighbours"
