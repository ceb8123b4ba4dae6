"""What a cohort file may leave out: named joins, defaults for all tables, the tables of a MEDS dataset.

Works on the raw mapping, before it is validated, so that errors name the keys that people wrote.
"""

import json
from collections.abc import Mapping
from typing import Any

from ehr_assets.contracts import BIRTH, DEATH, SECTIONS
from ehr_assets.specs import layered

MEDS_TABLE = "events"


def expanded(cohort: Mapping[str, Any]) -> dict[str, Any]:
    """The cohort file with everything written out; what is malformed is left for the validation to name."""
    out = dict(cohort)
    if _kind(out) == "meds":
        out = _meds(out)
    defaults = _mapping(out.get("table_defaults"))
    named = {name: _with(defaults, join) for name, join in _mapping(out.get("joins")).items()}
    if named:
        out["joins"] = named
    if isinstance(out.get("tables"), list):
        out["tables"] = [_table(table, named, defaults) for table in out["tables"]]
    return out


def laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What a cohort file makes of the one it extends: keys win, tables are laid over those of their name.

    A table of a new name comes last; ``drop: true`` leaves one of the base out.
    """
    out = layered(base, own)
    if not (isinstance(base.get("tables"), list) and isinstance(own.get("tables"), list)):
        return out
    names = [table.get("name") if isinstance(table, dict) else None for table in base["tables"]]
    tables, new = list(base["tables"]), []
    for table in own["tables"]:
        name = table.get("name") if isinstance(table, dict) else None
        if name is None or name not in names:
            new.append(table)
        else:
            at = names.index(name)
            tables[at] = None if table.get("drop") is True else layered(tables[at], table)
    out["tables"] = [table for table in tables if table is not None] + new
    return out


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
    """A join by its name; one that begins from a named one (``join: NAME``); or one in full."""
    own = dict(join) if isinstance(join, Mapping) else {"join": join}
    if not isinstance(own.get("join"), str):
        return _with(defaults, join)
    name, prefix = own.pop("join"), own.pop("prefix", "")
    if name not in named:
        raise ValueError(f"there is no join '{name}' under `joins`; there are: {', '.join(named) or 'none'}")
    if not isinstance(named[name], Mapping):
        return named[name]
    out = {**named[name], **own}
    if prefix and isinstance(out.get("columns"), Mapping):
        out["columns"] = {f"{prefix}{new}": there for new, there in out["columns"].items()}
    return out


def _with(defaults: Mapping[str, Any], spec: Any) -> Any:
    return {**defaults, **spec} if isinstance(spec, Mapping) else spec


def _meds(cohort: dict[str, Any]) -> dict[str, Any]:
    """A MEDS dataset is one table in many files, and says itself who its subjects are."""
    source = json.loads(json.dumps(dict(cohort["source"]), default=str))
    own_codes = {f"^{BIRTH}$": "demographics", f"^{DEATH}$": "death"}
    rules = {"column": "code", "rules": {**own_codes, **source.get("sections", {})}}
    by_code = {**rules, "default": source.get("default_section", "observations")}
    as_told = {"column": "section", "rules": {f"^{s}$": s for s in SECTIONS}, "default": SECTIONS[0]}
    event = {
        "code": "{code}",
        "numeric_value": "numeric_value",
        "text_value": "text_value",
        "text_beside_number": True,
        "unit": "unit",
        "description": "{description}",
    }
    moment = {"column": "time", "midnight_is_day": source.get("midnight_is_day", True)}
    dated = {**event, "time": moment, "available": "available_time"}
    known = {"section": list(SECTIONS)}
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
            {**dated, "section": as_told, "when": {"in": known, "not_null": ["time"]}},
            # A `section` that means something else to whoever made the dataset counts as none.
            {**dated, "section": by_code, "when": {"not_in": known, "not_null": ["time"]}},
        ],
    }
    cohort.setdefault("tables", [table])
    cohort.setdefault("subjects", {"table": MEDS_TABLE, "column": "subject_id", "one_row_each": False})
    return cohort
