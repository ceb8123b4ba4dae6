"""The pieces of the smb text, laid at its lines: headers, names, values, each for as long as it is read."""

import numpy as np
import polars as pl

from ehr_assets.corpora import phrases
from ehr_assets.corpora.pieces import StringTable, encoded
from ehr_assets.corpora.smb_names import Names
from ehr_assets.corpora.smb_rows import ALWAYS, NEVER, NO_DAY, Lines, Rows, Values, birth_text

# Slots before those of a line's values, in the order of the text.
_EMPTY, HEADER, _NAME, _VALUES = range(4)


def decimals(number: float) -> str:
    return f"{number:.2f}"


class Layout:
    """Pieces as they are laid, then sorted into the order of the text.

    Attributes:
        rows, lines: what they are made from.
        block_subject: int64 [blocks].
        then, all [pieces]: piece, start, end, row (in the frame, or -1), day (NO_DAY in demographics), slot,
        subject, begins.
    """

    line: np.ndarray
    start: np.ndarray
    end: np.ndarray
    piece: np.ndarray
    slot: np.ndarray
    row: np.ndarray
    begins: np.ndarray
    subject: np.ndarray
    day: np.ndarray

    def __init__(self, rows: Rows, lines: Lines, block_subject: np.ndarray) -> None:
        self.rows, self.lines, self.block_subject = rows, lines, block_subject
        self.line_subject = block_subject[lines.block]
        self._parts: list[tuple[np.ndarray, ...]] = []

    def lay(
        self,
        line: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        piece: np.ndarray,
        *,
        slot: np.ndarray | int,
        row: np.ndarray | int = -1,
        begins: bool = False,
        subject: np.ndarray | None = None,
    ) -> None:
        """Lays pieces at lines, but for those that are never read."""
        if subject is None:
            subject = self.line_subject[line]
            day = self.rows.day[self.rows.block_start[self.lines.block[line]]]
        else:
            day = np.full(len(line), NO_DAY)
        read = np.flatnonzero(start < end)
        columns = (line, start, end, piece, slot, row, begins, subject, day)
        self._parts.append(tuple(np.broadcast_to(c, len(line))[read] for c in columns))

    def sort(self) -> None:
        columns = [np.concatenate(c) for c in zip(*self._parts, strict=True)]
        line, slot = columns[0], columns[4]
        order = np.argsort(line * (slot.max(initial=0) + 1) + slot, kind="stable")
        columns = [column[order] for column in columns]
        self.line, self.start, self.end, self.piece, self.slot = columns[:5]
        self.row, self.begins, self.subject, self.day = columns[5:]


def lay_empty(layout: Layout, n_subjects: int) -> None:
    """What a model reads of a subject of whom nothing is known: the tags of an empty block."""
    subject = np.arange(n_subjects)
    line = np.searchsorted(layout.line_subject, subject)
    until = np.full(n_subjects, NEVER)
    np.minimum.at(until, layout.line_subject, layout.lines.start)
    tags = np.tile([0, len(phrases.SECTIONS)], n_subjects)
    layout.lay(
        np.repeat(line, 2),
        np.full(2 * n_subjects, ALWAYS),
        np.repeat(until, 2),
        tags,
        slot=_EMPTY,
        subject=np.repeat(subject, 2),
    )


def lay_headers(layout: Layout, table: StringTable) -> None:
    """`[date]` with its line break, behind what separates it from what is known before it."""
    rows, lines, subject = layout.rows, layout.lines, layout.block_subject
    if not len(subject):
        return
    first_line = np.searchsorted(lines.block, np.arange(len(subject)))
    known = np.minimum.reduceat(lines.start, first_line)
    day = rows.day[rows.block_start]
    dated = day != NO_DAY
    front = np.full(int(subject.max()) + 1, NEVER)
    front[subject[~dated]] = known[~dated]
    line, start, front = first_line[dated], known[dated], front[subject[dated]]
    date = _earlier(start, subject[dated])
    which, days = encoded(day[dated])
    headers = [f"[{d}]\n" for d in days.to_numpy().astype("datetime64[D]")]
    never = np.full(len(line), NEVER)
    for before, begin, end in (
        ("\n", start, np.minimum(front, date)),
        ("\n\n\n", np.maximum(start, front), date),
        ("\n\n", np.maximum(start, date), never),
    ):
        piece = table.add([before + header for header in headers]) + which
        layout.lay(line, begin, end, piece, slot=HEADER, begins=True)


def lay_names(layout: Layout, names: Names, table: StringTable) -> None:
    """A line's name, with its unit once it has values, behind a line break unless it is the first."""
    lines = layout.lines
    birth, births = encoded(lines.birth_day)
    n = len(names.texts)
    whole = [*names.texts, *map(birth_text, births.to_list()), *lines.texts]
    of = np.where(lines.birth_day != NO_DAY, n + birth, lines.name)
    of = np.where(lines.literal >= 0, n + len(births) + lines.literal, of)
    colon = [f"{text}{unit}:" for text, unit in zip(names.texts, names.units, strict=True)]
    with_values = np.where(lines.valued == NEVER, 0, lines.name)
    line = np.arange(len(of))
    row = layout.rows.row[lines.head]
    # Versions of one line written out whole share a head: none of them stands before another.
    anew = np.append(True, lines.head[1:] != lines.head[:-1])[: len(line)]
    second = _earlier(lines.start, lines.block)[np.maximum.accumulate(np.where(anew, line, 0))]
    for before, begin, end in (
        ("", lines.start, np.minimum(lines.end, second)),
        ("\n", np.maximum(lines.start, second), lines.end),
    ):
        for texts, which, since, until in (
            (whole, of, begin, np.minimum(end, lines.valued)),
            (colon, with_values, np.maximum(begin, lines.valued), end),
        ):
            piece = table.add([before + text for text in texts]) + which
            layout.lay(line, since, until, piece, slot=_NAME, row=row, begins=before != "")


def lay_values(layout: Layout, values: Values, events: pl.DataFrame, table: StringTable) -> None:
    """The values of a line: behind a blank the first that is shown, behind a comma the others."""
    lines = layout.lines
    row = layout.rows.row[values.at]
    number = events["numeric_value"].to_numpy().astype(np.float32)[row]
    numeric = ~np.isnan(number)
    position, distinct = encoded(number[numeric])
    word, words = encoded(events["text_value"].gather(row[~numeric]))
    shown = [decimals(value) for value in distinct.to_list()]
    of = np.empty(len(row), np.int64)
    of[numeric], of[~numeric] = position, len(shown) + word
    shown += words.to_list()
    born, dies = lines.start[values.line], lines.end[values.line]
    alone = values.followed >= values.fifth
    slot = _VALUES + values.at - lines.head[values.line]
    for before, begin, end in (
        (" ", values.start, np.where(alone, values.out, values.followed)),
        (", ", np.maximum(values.start, values.followed), values.fifth),
        (" ", np.where(alone, NEVER, np.maximum(values.start, values.fifth)), values.out),
    ):
        piece = table.add([before + text for text in shown]) + of
        begin, end = np.maximum(begin, born), np.minimum(end, dies)
        layout.lay(values.line, begin, end, piece, slot=slot, row=row)


def _earlier(moments: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """The smallest of the moments before each one in its segment; NEVER for the first."""
    found = np.full(len(moments), NEVER)
    if len(moments):
        running = pl.DataFrame({"segment": segment, "moment": moments}).select(
            pl.col("moment").cum_min().over("segment")
        )["moment"]
        same = segment[1:] == segment[:-1]
        found[1:][same] = running.to_numpy()[:-1][same]
    return found
