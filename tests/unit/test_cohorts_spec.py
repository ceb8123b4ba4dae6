"""Cohort specs: what they refuse, and that the refusal says where and why."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from cohorts_support import SPEC, tiny
from language_support import EVENT

from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.cohorts.templates import Part, parse_template
from ehr_assets.errors import SpecError
from ehr_assets.specs import parse_spec

SHIPPED = sorted((Path(__file__).parents[2] / "ehr_assets" / "cohorts" / "specs").glob("*.yaml"))


def refusal(change) -> str:
    data: dict[str, Any] = deepcopy(SPEC)
    change(data)
    with pytest.raises(SpecError) as e:
        parse_spec(CohortSpec, data, where="tiny.yaml")
    return str(e.value)


def lab(data):
    return data["tables"][1]["events"][0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_specs_load_under_their_file_name(path):
    assert load_cohort(path).name == path.stem


def test_overrides_reach_nested_keys(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    spec = load_cohort(file, {"splits.held_out": 0.5, "shard_subjects": 3})
    assert (spec.splits.held_out, spec.shard_subjects) == (0.5, 3)


def test_unquoted_on_is_a_key(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(SPEC).replace("'on':", "on:"))
    assert " on:" in file.read_text()
    assert load_cohort(file).tables[1].joins[0].on == {"item": "item"}


def test_a_misspelt_key_is_named_with_the_key_that_was_meant():
    text = refusal(lambda d: lab(d).update(availble="filed"))
    assert "tables.1.events.0.availble" in text
    assert "Did you mean 'available'?" in text
    assert "tiny.yaml" in text


def test_a_misspelt_key_inside_a_time_is_found():
    text = refusal(lambda d: lab(d).update(time={"colum": "drawn"}))
    assert "Did you mean 'column'?" in text


@pytest.mark.parametrize("template", ["LAB//{item", "LAB//item}", "{}", "{a|b|c}", "{a{b}}", " "])
def test_bad_templates_are_refused_at_load(template):
    assert "tables.1.events.0.code" in refusal(lambda d: lab(d).update(code=template))


def test_template_parts():
    assert parse_template("A//{b}//{c|}") == [Part("A//"), Part(None, "b"), Part("//"), Part("", "c")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: lab(d).update(section="labs"), "tables.1.events.0.section"),
        (lambda d: lab(d).update(static=True), "neither `time` nor `available`"),
        (lambda d: lab(d).pop("time"), "give `time`, or `static: true`"),
        (lambda d: lab(d).update(value="text"), "give either `value`"),
        (lambda d: lab(d).update(time={"column": "a", "year": "b"}), "exactly one of `column`"),
        (lambda d: lab(d).update(time={"column": "a", "at": "end_of_day"}), "kind: date"),
        (lambda d: lab(d).update(available={"year": "a"}), "neither from a year"),
        (lambda d: lab(d).update(time={"column": "a", "format": "%Y-%m"}), "tells no day"),
        (lambda d: lab(d).update(when={"matches": {"a": "("}}), "not a regular expression"),
        (lambda d: lab(d).update(when={"matches": {"a": "x(?=y)"}}), "look-around"),
        (lambda d: lab(d).update(when={"matches": {"a": r"x\Z"}}), r"the end of a text is $, not \Z"),
        (lambda d: lab(d).update(when={"matches": {"a": r"x\z"}}), r"x\z"),
        (lambda d: lab(d).update(when={"matches": {"a": "x{,3}"}}), "where tables are searched"),
        (lambda d: lab(d).update(when={"equals": {"a": True}}), "when.equals.a"),
        (lambda d: d["subjects"].update(table="persons"), "'persons' is not one of the tables"),
        (lambda d: d["subjects"].update(column="id"), "subject_id: pid"),
        (lambda d: d["tables"][0].update(optional=True), "cannot be optional"),
        (lambda d: d["tables"][1].update(name="people"), "given twice: people"),
        (lambda d: d["tables"][1].update(encoding="utf-9"), "'utf-9' is not an encoding"),
        (lambda d: d["tables"][1].update(file="/etc/labs"), "tables.1.file"),
        (lambda d: d["tables"][1]["joins"][0].update(columns={"item": "name"}), "second meaning"),
        (lambda d: d["tables"][1]["joins"][0].update(columns={"pid": "name"}), "already has"),
        (lambda d: d.update(quarantine_threshold=2), "quarantine_threshold"),
        (lambda d: d.update(source={"kind": "tables", "root": "/data"}), "source.tables.root"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(change, why):
    assert why in refusal(change)


def test_columns_to_read_leave_out_joined_ones_and_add_their_keys():
    spec = tiny()
    assert spec.tables[1].raw_columns() == ["drawn", "filed", "item", "number", "pid", "text", "unit"]


def test_conditions_are_on_text():
    data = deepcopy(SPEC)
    lab(data)["when"] = {"equals": {"flag": 1}, "in": {"kind": [2, "x"]}}
    when = parse_spec(CohortSpec, data, where="tiny").tables[1].events[0].when
    assert when.equals == {"flag": "1"}
    assert when.is_in == {"kind": ["2", "x"]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: lab(d).update(when={"equals": {"form": 4.10}}), "put 4.1 in quotes"),
        (lambda d: lab(d).update(when={"not_in": {"form": [1, 2.0]}}), "put 2.0 in quotes"),
        (lambda d: d["tables"][1].update(missing=[-1.0]), "put -1.0 in quotes"),
        (lambda d: d["tables"][1].update(recode={"unit": {0: "A", "0": "B"}}), "key 0 is given twice"),
        (lambda d: d["tables"][1].update(recode={"unit": {"0": 1.5}}), "put 1.5 in quotes"),
        (lambda d: d["tables"][1].update(recode={"unit": {1.5: "a"}}), "put 1.5 in quotes"),
        (
            lambda d: d["tables"][1].update(upper=["unti"]),
            "'unti', which no event reads. Did you mean 'unit'?",
        ),
        (
            lambda d: d["tables"][1].update(recode={"x": {"a": "b"}}),
            "table 'labs': `recode` names the column 'x'",
        ),
        (lambda d: d["tables"][1].update(aliases={"x": "y"}), "table 'labs': `aliases` names the column 'x'"),
        (lambda d: d["tables"][1]["joins"][0].update(upper=["label"]), "`upper` names the column 'label'"),
        (lambda d: lab(d).update(convert={1: {"to": "g"}, "1": {"to": "mg"}}), "key 1 is given twice"),
    ],
)
def test_numbers_that_would_not_stay_as_they_are_written_are_refused(change, why):
    assert why in refusal(change)


def test_loading_specs_imports_nothing_heavy():
    code = (
        "import sys, ehr_assets.cohorts.spec;"
        "print([m for m in ('polars', 'pyarrow', 'numpy', 'pandas', 'dagster', 'torch') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_cohort_that_extends_another(tmp_path):
    """It says only what differs; tables are laid over those of the same name."""
    base = {
        "name": "base",
        "title": "Base",
        "source": {"kind": "tables", "root_env": "EHR_B"},
        "subjects": {"table": "people", "column": "id"},
        "joins": {"concept": {"file": "concept", "on": ["c"], "columns": {"label": "name"}}},
        "tables": [
            {"name": "people", "file": "people", "subject_id": "id", "events": [{**EVENT, "time": "born"}]},
            {
                "name": "t",
                "file": "t",
                "subject_id": "id",
                "joins": ["concept"],
                "events": [{**EVENT, "time": "at"}],
            },
            {"name": "u", "file": "u", "subject_id": "id", "events": [{**EVENT, "time": "at"}]},
        ],
    }
    own = {
        "extends": "base",
        "name": "own",
        "subjects": {"person_key": "who"},
        "joins": {"concept": {"file": "my_concept"}},
        "tables": [
            {"name": "u", "drop": True},
            {"name": "t", "file": "mine/t"},
            {"name": "v", "file": "v", "subject_id": "id", "events": [{**EVENT, "time": "at"}]},
        ],
    }
    for name, spec in (("base", base), ("own", own), ("circle", {**own, "extends": "circle"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    got = load_cohort(tmp_path / "own.yaml")
    assert [(t.name, t.file) for t in got.tables] == [("people", "people"), ("t", "mine/t"), ("v", "v")]
    assert (got.title, got.subjects.column, got.subjects.person_key) == ("Base", "id", "who")
    assert got.tables[1].joins[0].file == "my_concept"
    with pytest.raises(SpecError, match=r"in a circle: circle extends circle"):
        load_cohort(tmp_path / "circle.yaml")
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump({**own, "extends": "bass"}))
    with pytest.raises(SpecError, match=r"no cohort 'bass'\. Did you mean 'base'"):
        load_cohort(tmp_path / "lost.yaml", search=[])
