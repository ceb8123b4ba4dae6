"""The language of cohort files as a JSON schema, for editors: completion, hover, typos underlined.

Made from the models of `spec.py`; what an editor shows for a key is the sentence about it in the docstring of
its model, or in `schema_words.py`. Added here is only what files may write shorter than the models hold it
(`expand.py`).
"""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ehr_assets.cohorts.schema_words import SHORT_WORDS, WORDS
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.specs import models_in

ADDRESS = "https://json-schema.org/draft/2020-12/schema"


def cohort_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a cohort file as it is written."""
    schema = CohortSpec.model_json_schema(mode="validation")
    models = {m.__name__: m for m in _models(CohortSpec, set())}
    for name, definition in [("CohortSpec", schema), *schema["$defs"].items()]:
        _described(definition, models[name])
    _short_forms(schema)
    return {"$schema": ADDRESS, **_tidy(schema), "title": "A cohort of ehr-assets"}


def schema_text() -> str:
    """As it is published."""
    return json.dumps(cohort_schema(), indent=1, ensure_ascii=False) + "\n"


def _short_forms(schema: dict[str, Any]) -> None:
    models = schema["$defs"]
    table, join, subjects = (models[name] for name in ("TableSpec", "JoinSpec", "SubjectsSpec"))
    joins = table["properties"]["joins"]
    whole = [{"required": ["join"]}, {"required": join["required"]}]
    joins["items"] = {"anyOf": [{"type": "string"}, {**joins["items"], "anyOf": whole}]}
    for node, name, kind in (
        (schema, "extends", "string"),
        (table, "drop", "boolean"),
        (join, "join", "string"),
        (join, "prefix", "string"),
    ):
        node["properties"][name] = {"type": kind, "description": SHORT_WORDS[name]}
    # What begins from something else says only what differs; the loader sees what is then missing.
    table["required"], join["required"], subjects["required"] = ["name"], [], []
    needed = [key for key in schema["required"] if key not in ("tables", "subjects")]
    schema["required"] = ["name"]
    # The tables of a MEDS dataset, and who its subjects are, need not be said.
    is_meds = {"properties": {"source": {"properties": {"kind": {"const": "meds"}}}}, "required": ["source"]}
    extends = {"required": ["extends"]}
    schema["anyOf"] = [
        extends,
        {**is_meds, "required": needed},
        {"required": [*needed, "subjects", "tables"]},
    ]


def _models(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        for nested in models_in(field.annotation):
            yield from _models(nested, seen)


def _described(definition: dict[str, Any], model: type[BaseModel]) -> None:
    for key, schema in definition.get("properties", {}).items():
        if text := describe(model, key):
            schema["description"] = text


def describe(model: type[BaseModel], key: str) -> str:
    """What the docstrings of a model (and of what it extends), or else `WORDS`, say about a key."""
    for parent in model.__mro__:
        doc = " ".join(inspect.cleandoc(parent.__doc__ or "").split())
        said = re.split(r"(?<=[.;])\s+(?=[`A-Z])", doc)
        own = [s for s in said if re.match(rf"(?:`\w+`[^`:.]*(?:\([^)]*\))?[,]? (?:and )?)*`{key}[`:]", s)]
        found = own or [s for s in said if re.search(rf"`{key}[`:]", s)]
        if found and f"{model.__name__}.{key}" not in WORDS:
            return " ".join(found)
    return WORDS.get(f"{model.__name__}.{key}") or WORDS.get(key, "")


def _tidy(node: Any) -> Any:
    """Without what pydantic adds and no reader needs: titles, and defaults that are whole models."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: _tidy(schema) for name, schema in value.items()}
        elif not (
            (key == "title" and isinstance(value, str))
            or (key == "default" and isinstance(value, dict | list | None))
        ):
            out[key] = _tidy(value)
    return out
