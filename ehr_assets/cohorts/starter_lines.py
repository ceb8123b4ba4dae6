"""The lines of a starter spec: words quoted where YAML needs it, times and events as the language has them.

Only text; what is written is decided in `starter.py`.
"""

import json
import re
import textwrap
from collections.abc import Iterator

from ehr_assets.cohorts.profiles import Column

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*$")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def event_of(code: str, section: str, **keys: str | None) -> str:
    """One line, or several where it would be long."""
    columns = ("value", "numeric_value", "text_value", "unit")
    items = [f"code: {quoted(code)}"]
    for key, value in keys.items():
        if value is not None:
            said = word(value) if key in columns else quoted(value) if key == "description" else value
            items.append(f"{key}: {said}")
    items.append(f"section: {section}")
    line = f"      - {{{', '.join(items)}}}"
    return line if len(line) <= 100 else "      - " + "\n        ".join(items)


def moment_of(column: Column, name: str | None = None) -> str:
    """How a column of dates or timestamps is read."""
    name = name or column.name
    if column.kind == "date" and not column.formats:
        return f"{{column: {word(name)}, kind: date}}"
    keys = [f"column: {word(name)}"]
    if column.formats:
        keys.append(f"format: {json.dumps(column.formats[0])}")
    if column.midnight:
        keys.append("midnight_is_day: true")
    return f"{{{', '.join(keys)}}}" if len(keys) > 1 else word(name)


def day_of(column: Column, at: str | None = None) -> str:
    """How a column of times is read that goes to the day only."""
    keys = [f"column: {word(column.name)}", "kind: date"]
    keys += [f"format: {json.dumps(column.formats[0])}"] if column.formats else []
    return f"{{{', '.join([*keys, *([f'at: {at}'] if at else [])])}}}"


def either(ways: list[str]) -> str:
    return ways[0] if len(ways) == 1 else f"[{', '.join(ways)}]"


def mapping(pairs: dict[str, str]) -> str:
    return f"{{{', '.join(f'{word(k)}: {word(v)}' for k, v in pairs.items())}}}"


def code_of(name: str) -> str:
    """A part of a code, from the name of a table or column."""
    return re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")


def word(text: str) -> str:
    """A word of YAML, quoted where it must be."""
    return text if _PLAIN.match(text) and text.lower() not in _WORDS else quoted(text)


def quoted(text: str) -> str:
    plain = re.fullmatch(r"[A-Z][A-Z_/]*", text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def comment(text: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(text, 98))
