"""What a page is put together from: sections of text, cards, tables and figures, as plain values.

A table is one structure that becomes HTML (`report.html`) and Markdown (here), so that the two cannot
disagree. Every table and figure says which datasets it was made from; without that it cannot be built.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Look = Literal["", "best", "second", "ceiling", "none", "bad", "warn"]


@dataclass(frozen=True)
class Cell:
    """Text, and in small type what belongs to it: an interval, a standard deviation."""

    text: str
    small: str = ""
    look: Look = ""


EMPTY = Cell("–", look="none")


@dataclass(frozen=True)
class Head:
    """A column's title; in small type below it; and above it what it shares with its neighbours."""

    text: str
    small: str = ""
    above: str = ""
    kind: str = ""  # recipe, baseline, control, oracle: its colour
    words: bool = False  # text, not numbers: left aligned


@dataclass(frozen=True)
class Row:
    title: str
    cells: Sequence[Cell]
    look: Look = ""


@dataclass(frozen=True)
class Group:
    """Rows under a heading of their own (None: without)."""

    title: str | None
    rows: Sequence[Row]


@dataclass(frozen=True)
class Table:
    """A table with its note. `name`: for Dagster's pages and the command line; `folded`: shown on demand.

    Raises ValueError without sources, or when a row is not as wide as the head.
    """

    title: str
    corner: str
    heads: Sequence[Head]
    groups: Sequence[Group]
    sources: Sequence[str]
    note: str = ""
    folded: bool = False

    kind = "table"

    def __post_init__(self) -> None:
        _require_sources(self)
        if any(len(row.cells) != len(self.heads) for group in self.groups for row in group.rows):
            raise ValueError(f"a row of '{self.title}' is not as wide as its head")

    @property
    def spans(self) -> list[tuple[str, int]]:
        """What stands above the heads, and over how many columns each; empty where nothing does."""
        if not any(head.above for head in self.heads):
            return []
        spans: list[tuple[str, int]] = []
        for head in self.heads:
            if spans and spans[-1][0] == head.above:
                spans[-1] = (head.above, spans[-1][1] + 1)
            else:
                spans.append((head.above, 1))
        return spans


@dataclass(frozen=True)
class Figure:
    svg: str
    title: str
    caption: str
    sources: Sequence[str]

    kind = "figure"

    def __post_init__(self) -> None:
        _require_sources(self)


@dataclass(frozen=True)
class Text:
    """A paragraph. `quiet`: in small type; `heading`: of what follows it, without a paragraph if empty."""

    text: str = ""
    heading: str = ""
    quiet: bool = False

    kind = "text"


@dataclass(frozen=True)
class Cards:
    """Few large numbers. cards: (label, value, kind of method)."""

    cards: Sequence[tuple[str, str, str]]
    sources: Sequence[str]

    kind = "cards"

    def __post_init__(self) -> None:
        _require_sources(self)


@dataclass(frozen=True)
class Flow:
    """Who is left after each step, and what the step took away. steps: (name, left, [(reason, taken)])."""

    steps: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
    sources: Sequence[str]

    kind = "flow"

    def __post_init__(self) -> None:
        _require_sources(self)


@dataclass(frozen=True)
class Settings:
    """Names and values, shown on demand."""

    title: str
    rows: Sequence[tuple[str, str]]

    kind = "settings"


Block = Table | Figure | Text | Cards | Flow | Settings


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


def absent(what: str, why: str) -> Text:
    """The line that stands where something would, if there were what it is made from."""
    return Text(f"{what}: not shown. {why}", quiet=True)


def markdown(table: Table) -> str:
    """The table in Markdown: best in bold, second underlined, the small type behind the number."""

    def words(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    def cell(c: Cell) -> str:
        text = words(f"{c.text} {c.small}".strip())
        return {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(c.look, text)

    def head(h: Head) -> str:
        return words(" ".join(part for part in (h.above, h.text, f"({h.small})" if h.small else "") if part))

    lines = ["| " + " | ".join([words(table.corner), *map(head, table.heads)]) + " |"]
    lines.append("|" + "---|" * (len(table.heads) + 1))
    for group in table.groups:
        if group.title:
            lines.append(f"| *{words(group.title)}* |" + " |" * len(table.heads))
        lines += [f"| {' | '.join([words(row.title), *map(cell, row.cells)])} |" for row in group.rows]
    told = [table.note, f"From {', '.join(f'`{s}`' for s in table.sources)}."]
    return "\n".join(lines) + "\n\n" + " ".join(filter(None, told))


def _require_sources(block: Any) -> None:
    if not block.sources:
        raise ValueError(f"a {block.kind} does not say what it was made from")
