"""What a cohort file may leave out: named joins, defaults for all tables, the tables of a MEDS dataset.

Works on the raw mapping, before it is validated, so that errors name the keys that people wrote.
"""

import json
from collections.abc import Mapping
from typing import Any

from ehr_assets.contracts import BIRTH, DEATH, SECTIONS

MEDS_TABLE = "events"


def expanded(cohort: Mapping[str, Any]) -> dict[str, Any]:
    """The cohort file with everything written out; what is malformed is left for the validation to name."""
    out = dict(cohort)
    if _kind(out) == "meds":
        out = _meds(out)
    named = out.get("joins") if isinstance(out.get("joins"), Mapping) else {}
    defaults = out.get("table_defaults") if isinstance(out.get("table_defaults"), Mapping) else {}
    assert isinstance(named, Mapping)
    assert isinstance(defaults, Mapping)
    out["joins"] = {name: _with(defaults, join) for name, join in named.items()}
    if isinstance(out.get("tables"), list):
        out["tables"] = [_table(table, out["joins"], defaults) for table in out["tables"]]
    return out


def _kind(cohort: Mapping[str, Any]) -> Any:
    source = cohort.get("source")
    return source.get("kind") if isinstance(source, Mapping) else getattr(source, "kind", None)


def _table(table: Any, named: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    if not isinstance(table, Mapping):
        return table
    out = _with(defaults, table)
    if isinstance(out.get("joins"), list):
        out["joins"] = [_join(join, named, defaults) for join in out["joins"]]
    return out


def _join(join: Any, named: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    if not isinstance(join, str):
        return _with(defaults, join)
    if join not in named:
        raise ValueError(f"there is no join '{join}' under `joins`; there are: {', '.join(named) or 'none'}")
    return named[join]


def _with(defaults: Mapping[str, Any], spec: Any) -> Any:
    return {**defaults, **spec} if isinstance(spec, Mapping) else spec


def _meds(cohort: dict[str, Any]) -> dict[str, Any]:
    """A MEDS dataset is one table in many files, and says itself who its subjects are."""
    source = json.loads(json.dumps(dict(cohort["source"]), default=str))
    own_codes = {f"^{BIRTH}$": "demographics", f"^{DEATH}$": "death"}
    rules = {"column": "code", "rules": {**own_codes, **source.get("sections", {})}}
    by_code = {**rules, "default": source.get("default_section", "observations")}
    event = {
        "code": "{code}",
        "numeric_value": "numeric_value",
        "text_value": "text_value",
        "text_beside_number": True,
        "unit": "unit",
        "description": "{description}",
    }
    moment = {"column": "time", "midnight_is_day": source.get("midnight_is_day", True)}
    own = [{**event, "section": s, "when": {"equals": {"section": s}}} for s in SECTIONS]
    # A `section` that means something else to whoever made the dataset counts as none.
    other = {**event, "section": by_code, "when": {"not_in": {"section": list(SECTIONS)}}}
    dated = [
        {**e, "time": moment, "available": "available_time", "when": {**e["when"], "not_null": ["time"]}}
        for e in [*own, other]
    ]
    table = {
        "name": MEDS_TABLE,
        "file": "data/**",
        "aliases": {"subject_id": ["patient_id"]},  # until 0.3.2
        "optional_columns": ["numeric_value", "text_value", "unit", "available_time", "section"],
        "recode": {"numeric_value": {"nan": None}},
        "joins": [
            {
                "file": "metadata/codes",
                "on": {"code": "code"},
                "columns": {"description": "description"},
                "optional_columns": ["description"],
                "optional": True,
            }
        ],
        "events": [
            # Without a time: facts that always hold. MEDS_BIRTH and MEDS_DEATH have one.
            {**event, "section": "demographics", "static": True, "when": {"is_null": ["time"]}},
            *dated,
        ],
    }
    cohort.setdefault("tables", [table])
    cohort.setdefault("subjects", {"table": MEDS_TABLE, "column": "subject_id", "one_row_each": False})
    return cohort
