"""The published JSON schema: current, and of one mind with the loader about what a cohort file may say."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from cohorts_support import SPEC
from jsonschema import Draft202012Validator

from ehr_assets.cohorts.schema import cohort_schema, schema_text
from ehr_assets.cohorts.schema_words import WORDS
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.errors import SpecError
from ehr_assets.settings import PROJECT_ROOT
from ehr_assets.specs import parse_spec, read_yaml

PUBLISHED = PROJECT_ROOT / "docs" / "cohort.schema.json"
SHIPPED = sorted((PROJECT_ROOT / "ehr_assets" / "cohorts" / "specs").glob("*.yaml"))
VALIDATOR = Draft202012Validator(cohort_schema())


def problems(spec: dict[str, Any]) -> list[str]:
    # Through JSON: there, as in an editor, every key is text.
    return [e.message for e in VALIDATOR.iter_errors(json.loads(json.dumps(spec)))]


def test_the_published_schema_is_current():
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text(), (
        "the language has changed: run `.venv/bin/ehr cohort schema > docs/cohort.schema.json`"
    )


def test_it_is_a_schema():
    Draft202012Validator.check_schema(cohort_schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_specs_are_valid(path: Path):
    assert problems(read_yaml(path)) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_specs_name_the_schema_that_is_there(path: Path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve() == PUBLISHED


def test_every_key_is_explained():
    silent = []
    schema = cohort_schema()
    for name, definition in [("cohort", schema), *schema["$defs"].items()]:
        silent += [f"{name}.{k}" for k, s in definition["properties"].items() if not s.get("description")]
    assert silent == []


def test_no_word_is_about_a_key_that_is_gone():
    schema = cohort_schema()
    models = {"CohortSpec": schema, **schema["$defs"]}
    keys = {k for definition in models.values() for k in definition["properties"]}
    for word in WORDS:
        model, _, key = word.rpartition(".")
        assert key in (models[model]["properties"] if model else keys), word


def changed(path: str, value: Any) -> dict[str, Any]:
    """SPEC with a value at a dotted path; of the lab event at `event.`, of the lab table at `table.`."""
    spec = deepcopy(SPEC)
    *parents, last = path.split(".")
    node: Any = spec
    for parent in parents:
        node = (
            node["tables"][1]["events"][0]
            if parent == "event"
            else node["tables"][1]
            if parent == "table"
            else node[parent]
        )
    node[last] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("event.time", "drawn"),
        ("event.time", ["drawn", {"column": "filed", "kind": "date"}]),
        ("event.time", {"elapsed": "number", "unit": "days", "since": "drawn"}),
        ("event.time", {"elapsed": "number", "unit": "days", "since": [{"year": "item"}, "drawn"]}),
        ("event.section", {"column": "item", "rules": {"^5": "drugs"}, "default": "measurements"}),
        ("event.when", {"equals": {"item": 50}, "in": {"item": [1, "x"]}, "at_least": {"number": 1}}),
        ("event.convert", {"g": {"to": "mg", "factor": 1000}}),
        ("table.encoding", ["utf-8", "latin-1"]),
        ("table.encoding", "latin-1"),
        ("table.quote", None),
        ("table.missing", [-1, "NA"]),
        ("table.recode", {"item": {"50": None, "51": "52"}}),
        ("table.aliases", {"item": "itemid", "unit": ["uom", "units"]}),
        ("table.joins", []),
        ("splits", {"given": {"file": "splits"}}),
        ("table_defaults", {"delimiter": ";", "encoding": "latin-1"}),
    ],
)
def test_what_the_loader_takes_the_schema_takes(path, value):
    spec = changed(path, value)
    parse_spec(CohortSpec, spec, "tiny.yaml")
    assert problems(spec) == []


def test_a_join_may_be_a_name_and_a_meds_dataset_needs_no_tables():
    spec = changed("table.joins", ["visit"])
    spec["joins"] = {"visit": {"file": "visits", "on": ["item"], "columns": {"label": "name"}}}
    parse_spec(CohortSpec, spec, "tiny.yaml")
    assert problems(spec) == []
    meds = {"name": "m", "title": "M", "source": {"kind": "meds", "root_env": "M"}}
    parse_spec(CohortSpec, meds, "m.yaml")
    assert problems(meds) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("event.availble", "filed"),
        ("event.time", {"colum": "drawn"}),
        ("event.section", "labs"),
        ("table.fiel", "x"),
        ("table.joins", [{"file": "items", "columns": {"a": "b"}}]),
        ("source", {"kind": "tables", "root": "/data"}),
        ("source", {"kind": "table", "root_env": "X"}),
        ("quarantine_threshold", 2),
        ("tables", None),
        ("name", "Not A Name"),
        ("decision_nodes", {"task_set": "t", "triggers": [{"name": "x", "kind": "evnt", "codes": ["a"]}]}),
    ],
)
def test_what_the_loader_refuses_the_schema_refuses(path, value):
    spec = changed(path, value)
    with pytest.raises(SpecError):
        parse_spec(CohortSpec, spec, "tiny.yaml")
    assert problems(spec)


def test_tables_cannot_be_left_out_otherwise():
    assert problems({k: v for k, v in SPEC.items() if k != "tables"})
