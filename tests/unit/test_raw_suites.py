"""Promises about raw tables: kept by clean tables; each broken one is caught by its own check alone."""

import gzip
import re
from copy import deepcopy
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import SPEC, tiny
from dagster import AssetCheckSeverity, DagsterInstance, materialize

from ehr_assets.cohorts import raw_suites
from ehr_assets.cohorts.assets import cohort_assets
from ehr_assets.cohorts.checks import cohort_checks
from ehr_assets.cohorts.expect_spec import ExpectSpec
from ehr_assets.cohorts.promises import promises, raw_suite
from ehr_assets.cohorts.raw_suites import validate_raw
from ehr_assets.errors import RawTableError, SpecError
from ehr_assets.expectations import workbench
from ehr_assets.fanout import Machine
from resources.storage import Datasets

PEOPLE = [
    "pid,sex,born,died",
    *(f"{i},{'FM'[i % 2]},{1940 + i}," for i in range(1, 9)),
    '9,F,1950,"2020-03-05"',
]
LABS = [
    "pid,item,unit,drawn,filed,number,text",
    *(f"{i},{50 + i},mg,2020-01-0{i} 10:00,,{i}.5, " for i in range(1, 9)),
]
PROMISED = [
    {"unique": "pid", "blocking": True},
    {"not_null": ["sex", "born"]},
    {"one_of": {"sex": ["F", "M"]}},
    {"between": {"born": {"min": 1900, "max": 1960}}},
    {"between": {"died": {"min": "2000-01-01", "max": "2020-12-31"}}},
    {"matches": {"born": "^[0-9]{4}$"}},
    {"row_count": {"min": 5, "max": 20}},
]
LAB_PROMISED = [
    {"unique": ["pid", "item"]},
    {"references": {"pid": "people.pid"}},
    {"between": {"number": {"min": 0}}},
    {"not_null": "number", "mostly": 0.85},
]


def cohort(people=PROMISED, labs=LAB_PROMISED, **changes):
    tables = deepcopy(SPEC["tables"])
    tables[0] |= {"expect": people}
    tables[1] |= {"expect": labs} | changes
    return tiny(tables=tables)


def write(root: Path, people=PEOPLE, labs=LABS) -> Path:
    (root / "lab").mkdir(parents=True)
    (root / "people.csv").write_text("\n".join(people) + "\n")
    (root / "lab" / "labs.csv").write_text("\n".join(labs) + "\n")
    return root


def failed(root: Path, spec=None) -> dict[str, dict]:
    spec = spec or cohort()
    verdicts = validate_raw(spec, root, Machine())
    assert [v.name for v in verdicts] == [e.name for e in raw_suite(spec)]
    return {v.name: dict(v.counts) for v in verdicts if not v.passed}


def test_promises_that_are_kept(tmp_path):
    verdicts = {v.name: v for v in validate_raw(cohort(), write(tmp_path), Machine())}
    assert all(v.passed for v in verdicts.values())
    assert verdicts["people__unique__pid"].counts == {"of": "rows", "checked": 9, "unexpected": 0}
    assert verdicts["people__row_count"].counts == {"of": "rows", "checked": 9}
    assert {e.name for e in raw_suite(cohort()) if e.blocking} == {"people__unique__pid"}


@pytest.mark.parametrize(
    ("people", "labs", "name"),
    [
        (["3,F,1950,"], [], "people__unique__pid"),
        (["10, ,1950,"], [], "people__not_null__sex"),
        (["10,F,,"], [], "people__not_null__born"),
        (["10,X,1950,"], [], "people__one_of__sex"),
        (["10,F,1899,"], [], "people__between__born"),
        (["10,F,1961,"], [], "people__between__born"),
        (["10,F,1950,1999-12-31"], [], "people__between__died"),
        (["10,F,1950,2021-01-01"], [], "people__between__died"),
        (["10,F,1950,2020-02-30"], [], "people__between__died"),
        (["10,F,1950.5,"], [], "people__matches__born"),
        ([f"{i},F,1950," for i in range(10, 22)], [], "people__row_count"),
        ([], ["1,51,mg,2020-01-01,,5,"], "labs__unique__pid__item"),
        ([], ["11,51,mg,2020-01-01,,5,"], "labs__references__pid"),
        ([], ["1,5,mg,2020-01-01,,-0.1,"], "labs__between__number"),
        *(([], [f"1,5,mg,2020-01-01,,{n},"], "labs__between__number") for n in ("high", "nan", "inf", "1_0")),
        *(([f"10,F,1950,{day}"], [], "people__between__died") for day in ("infinity", "-infinity", "epoch")),
        ([], ["1,5,mg,2020-01-01,,,", "1,6,mg,2020-01-01,,,"], "labs__not_null__number"),
    ],
)
def test_each_broken_promise_is_caught_by_its_own_check_alone(tmp_path, people, labs, name):
    found = failed(write(tmp_path, PEOPLE + people, LABS + labs))
    assert list(found) == [name]
    expected = {"people__unique__pid": 2, "labs__unique__pid__item": 2, "labs__not_null__number": 2}
    assert found[name].get("unexpected", 1) == expected.get(name, 1)


def test_the_last_moment_of_the_last_day_is_inside(tmp_path):
    people = ["10,F,1950,2020-12-31 23:59:59.5", "11,F,1950,2000-01-01", "12,F,1900,", "13,F,1960.0,"]
    spec = cohort([p for p in PROMISED if "matches" not in p])
    assert failed(write(tmp_path, PEOPLE + people), spec) == {}


@pytest.mark.parametrize("ending", ["csv.gz", "parquet"])
def test_other_kinds_of_files_give_the_same(tmp_path, ending):
    plain = write(tmp_path / "plain", [*PEOPLE, "3,X,1899,2020-01-01"], [*LABS, "11,5,mg,,,x,"])
    other = tmp_path / "other"
    (other / "lab").mkdir(parents=True)
    for name in ("people", "lab/labs"):
        if ending == "parquet":
            frame = pl.read_csv(plain / f"{name}.csv", infer_schema_length=100, ignore_errors=False)
            frame.write_parquet(other / f"{name}.parquet")
        else:
            (other / f"{name}.csv.gz").write_bytes(gzip.compress((plain / f"{name}.csv").read_bytes()))
    assert failed(other) == failed(plain)
    assert len(failed(plain)) == 5


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_tables_are_read_as_extraction_reads_them(tmp_path, encoding):
    """In their encoding, with what is a sign for missing or is written otherwise."""
    root = write(tmp_path)
    labs = "\n".join([*LABS, "1,5,µg,2020-01-01,,5,é", "1,6,?,2020-01-01,,6,", "1,7,MG,2020-01-01,,7,"])
    (root / "lab" / "labs.csv").write_bytes(labs.encode(encoding))
    how = {"encoding": encoding, "missing": ["?"], "recode": {"unit": {"MG": "mg"}}}
    spec = cohort(labs=[{"one_of": {"unit": ["mg", "µg"]}}], **how)
    assert failed(root, spec) == {}
    assert list(failed(root, cohort(labs=[{"not_null": "unit"}], **how))) == ["labs__not_null__unit"]


def test_quotes_line_ends_marks_and_ragged_rows(tmp_path):
    root = write(tmp_path)
    labs = [*LABS, '1,"5",mg,2020-01-01,,5,"two\r\nlines, ""quoted"""', "1,2,3", "1,6,mg,2020-01-01,,6,x,y"]
    (root / "lab" / "labs.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(labs).encode())
    verdicts = {v.name: v for v in validate_raw(cohort(), root, Machine())}
    assert all(v.passed for v in verdicts.values())
    assert verdicts["labs__references__pid"].counts["checked"] == 9, "ragged rows are extraction's business"


def test_an_absent_table_is_skipped_with_a_note(tmp_path):
    root = write(tmp_path)
    (root / "lab" / "labs.csv").unlink()
    spec = cohort(labs=LAB_PROMISED, optional=True)
    notes = {v.name: v.note for v in validate_raw(spec, root, Machine()) if v.passed and v.note}
    assert set(notes) == {e.name for e in raw_suite(spec) if e.name.startswith("labs")}
    spec = cohort([{"references": {"pid": "labs.pid"}}], [], optional=True)
    (verdict,) = validate_raw(spec, root, Machine())
    assert verdict.passed
    assert verdict.note == "The table labs is not there."


def test_a_column_that_is_not_there_fails_its_promises_alone(tmp_path):
    spec = cohort([*PROMISED, {"not_null": "name"}], [{"references": {"pid": "people.id"}}])
    verdicts = {v.name: v for v in validate_raw(spec, write(tmp_path), Machine()) if not v.passed}
    assert {n: v.note for n, v in verdicts.items()} == {
        "people__not_null__name": "people has no column 'name'.",
        "labs__references__pid": "people has no column 'id'.",
    }


def test_a_reference_to_no_table_is_an_error():
    with pytest.raises(SpecError, match="'patients', which the cohort does not have"):
        promises(cohort([{"references": {"pid": "patients.pid"}}]))


def test_names_are_unique_and_promises_shape_no_code_version():
    twice = cohort([{"unique": "pid"}, {"unique": "pid", "mostly": 0.5}, {"unique": "pid", "mostly": 0.4}])
    names = [p.name for p in promises(twice) if p.table.name == "people"]
    assert len(set(names)) == 3
    assert cohort().config_hash("tables") == cohort([], []).config_hash("tables")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "exactly one of"),
        ({"unique": "a", "not_null": "a"}, "exactly one of"),
        ({"between": {"a": {}}}, "`min`, `max` or both"),
        ({"between": {"a": {"min": 2, "max": 1}}}, "greater"),
        ({"between": {"a": {"min": 2, "max": "2020-01-01"}}}, "both be numbers or both be dates"),
        *(
            ({"matches": {"a": p}}, reason)
            for p, reason in (("(", "regular expression"), ("^(?!x)F", "look-around"))
        ),
        ({"matches": {"a": r"(F)\1"}}, "back references"),
        ({"one_of": {"a": [4.10]}}, "in quotes"),
        ({"row_count": {"min": 2}, "mostly": 0.5}, "does not go with"),
        ({"references": {"a": "people"}}, "pattern"),
    ],
)
def test_promises_that_cannot_be_are_refused(entry, reason):
    with pytest.raises(ValueError, match=reason):
        ExpectSpec.model_validate(entry)


def test_a_pattern_that_duckdb_does_not_read_fails_its_promise_alone(tmp_path):
    spec = cohort([{"matches": {"sex": "^.{1,2000}$"}}, {"unique": "pid"}], [])
    verdicts = validate_raw(spec, write(tmp_path), Machine(), tmp_path)
    assert [(v.passed, bool(v.note)) for v in verdicts] == [(False, True), (True, False)]


@pytest.mark.parametrize("column", ["größe", "体重", "a b", "..."])
def test_names_of_checks_are_ascii_whatever_the_columns(column):
    spec = cohort([{"not_null": [column, "größe "]}], [])
    assert all(re.fullmatch("[A-Za-z0-9_]+", p.name) for p in promises(spec))
    assert len({p.name for p in promises(spec)}) == 2
    assert cohort_checks(spec)


def test_a_damaged_table_is_an_error_without_its_content(tmp_path):
    root = write(tmp_path)
    whole = gzip.compress(("\n".join(LABS) + "\n4711,secret" * 5000).encode())
    (root / "lab" / "labs.csv").unlink()
    for damaged in (whole[: len(whole) // 2], b"secret", whole[:-9] + bytes(9)):
        (root / "lab" / "labs.csv.gz").write_bytes(damaged)
        with pytest.raises(RawTableError, match="gzip file") as e:
            validate_raw(cohort(), root, Machine())
        assert "secret" not in str(e.value)


def test_no_raw_value_comes_out(tmp_path):
    root = write(tmp_path, [*PEOPLE, "4711,secret,1066,"])
    told = repr(validate_raw(cohort(), root, Machine()))
    assert not any(word in told for word in ("4711", "secret", "1066"))


def test_as_dagster_checks_promises_warn_unless_they_block(tmp_path, monkeypatch):
    root = write(tmp_path / "raw", [*PEOPLE, "10,X,1950,"])
    monkeypatch.setenv("EHR_TINY_ROOT", str(root))
    scratch = []
    monkeypatch.setattr(raw_suites, "workbench", lambda m, s: scratch.append(s) or workbench(m, s))
    instance = DagsterInstance.ephemeral()

    def run(spec):
        resources = {"datasets": Datasets(home=str(tmp_path / "home"), gates={})}
        definitions = [*cohort_assets(spec), *cohort_checks(spec)]
        done = materialize(definitions, instance=instance, resources=resources, raise_on_error=False)
        return done.success, {e.check_name: e for e in done.get_asset_check_evaluations()}

    success, found = run(cohort())
    assert success, "a broken promise that does not block stops nothing"
    broken = found["people__one_of__sex"]
    assert (broken.passed, broken.severity) == (False, AssetCheckSeverity.WARN)
    assert broken.metadata["unexpected"].value == 1
    assert found["people__unique__pid"].severity is AssetCheckSeverity.ERROR
    assert found["people__unique__pid"].passed
    assert scratch[0].is_relative_to(tmp_path / "home"), "raw columns stay in the store"
    assert not scratch[0].exists()
    success, found = run(cohort([{"one_of": {"sex": ["F", "M"]}, "blocking": True}]))
    assert not success
    assert found["people__one_of__sex"].severity is AssetCheckSeverity.ERROR
