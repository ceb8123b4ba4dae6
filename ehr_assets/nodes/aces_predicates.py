"""Predicates of ACES as event patterns of ours: codes, or codes with a condition on the value."""

import re
from collections.abc import Mapping
from typing import Any

from ehr_assets.nodes.aces_spec import Predicate

_SPECIAL = ("_ANY_EVENT", "_RECORD_START", "_RECORD_END")


class UnfitError(Exception):
    """One part of the file that has no counterpart here: its key and the reason."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")


class Predicates:
    """The predicates of one file by name. Every method raises UnfitError for what has no counterpart."""

    def __init__(self, plain_or_derived: Mapping[str, Predicate], static: Mapping[str, Any]) -> None:
        self._all, self._static = plain_or_derived, static

    def leaves(self, name: str, key: str, within: tuple[str, ...] = ()) -> list[Predicate]:
        """The plain predicates of which any one will do. `within`: those that this one is a part of."""
        if name in within:
            raise UnfitError(f"predicates.{name}", "predicates refer to one another in a circle")
        if name in _SPECIAL:
            raise UnfitError(key, f"{name} is no event by code; name the events that are meant")
        if name in self._static:
            raise UnfitError(key, f"'{name}' is a static attribute: task files go by events")
        if name not in self._all:
            raise UnfitError(key, f"there is no predicate '{name}'")
        predicate = self._all[name]
        if predicate.expr is None:
            return [self._plain(predicate, name)]
        match = re.fullmatch(r"\s*(or|and)\((.*)\)\s*", predicate.expr)
        if not match:
            raise UnfitError(f"predicates.{name}", "expr must be or(…) or and(…)")
        if match[1] == "and":
            raise UnfitError(
                f"predicates.{name}", "and(…) asks for several events at one time; only or(…) fits"
            )
        parts = [part.strip() for part in match[2].split(",")]
        return [leaf for part in parts for leaf in self.leaves(part, f"predicates.{name}", (*within, name))]

    def _plain(self, predicate: Predicate, name: str) -> Predicate:
        for column in predicate.model_extra or {}:
            raise UnfitError(f"predicates.{name}.{column}", "only code and value can be compared")
        return predicate

    def _codes(self, leaf: Predicate, key: str) -> list[str]:
        if isinstance(leaf.code, str):
            return [f"^{re.escape(leaf.code)}$"]
        ((how, what),) = (leaf.code or {}).items()
        if how == "any" and isinstance(what, list) and what:
            return [f"^{re.escape(code)}$" for code in what]
        if how == "regex" and isinstance(what, str):
            try:
                re.compile(what)
            except re.error as e:
                raise UnfitError(key, f"the regex is not one of Python's: {e}") from None
            return [what]
        raise UnfitError(key, "code must be a text, {regex: text} or {any: [at least one text]}")

    def patterns(self, name: str, key: str) -> list[dict[str, Any]]:
        """Event patterns of which any one will do; those without values as one."""
        leaves = self.leaves(name, key)
        plain = [code for leaf in leaves if not _value(leaf) for code in self._codes(leaf, key)]
        valued = [{"codes": self._codes(leaf, key), "value": _value(leaf)} for leaf in leaves if _value(leaf)]
        return [*([{"codes": plain}] if plain else []), *valued]


def _value(leaf: Predicate) -> dict[str, float]:
    bounds: dict[str, float] = {}
    if leaf.value_min is not None:
        bounds["ge" if leaf.value_min_inclusive else "gt"] = leaf.value_min
    if leaf.value_max is not None:
        bounds["le" if leaf.value_max_inclusive else "lt"] = leaf.value_max
    return bounds
