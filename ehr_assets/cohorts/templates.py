"""The code template language of cohort specs: ``"LAB//{itemid}//{valueuom|UNK}"``.

Only the parsing lives here (light: specs use it when definitions load); `meds/expressions.py` evaluates it.
"""

import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

_FIELD = re.compile(r"\{([^{}|]*)(?:\|([^{}|]*))?\}")


class Part(NamedTuple):
    """Literal text (`column` None), or a column with the text that stands in for a null (None: no event)."""

    text: str | None
    column: str | None = None


def parse_template(template: str) -> list[Part]:
    """The parts of a template, in order.

    Raises:
        ValueError: an unbalanced brace, a second ``|`` or an empty column name.
    """
    parts: list[Part] = []
    end = 0
    for match in _FIELD.finditer(template):
        if match.start() > end:
            parts.append(Part(template[end : match.start()]))
        if not match[1].strip():
            raise ValueError(f"'{match[0]}' names no column")
        parts.append(Part(match[2], match[1].strip()))
        end = match.end()
    if end < len(template):
        parts.append(Part(template[end:]))
    for part in parts:
        if part.column is None and re.search(r"[{}]", part.text or ""):
            raise ValueError(f"'{template}' is not a template: write {{column}} or {{column|DEFAULT}}")
    return parts


def template_columns(template: str) -> set[str]:
    """The columns that a template reads."""
    return {part.column for part in parse_template(template) if part.column is not None}


def _checked(template: str) -> str:
    if not template.strip():
        raise ValueError("an empty template")
    parse_template(template)
    return template


Template = Annotated[str, AfterValidator(_checked)]
