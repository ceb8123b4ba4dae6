"""The smb serialization: the text that the released SMB models were trained on, at every moment.

A record reads at t

    Birth: 1956-03-02


    [2020-03-01]
    ICD10CM//C34
    LAB//hb (g/dL): 11.20, 10.90

    [2020-03-04]
    RX//40048

* **Equal to the reference**, `process_ehr_info` of the public repository standardmodelbio/smb-utils
  (src/smb_utils/ehr_process.py, commit 3488e357), given the rows with `available_time <= t` of one subject in
  the order of their MEDS frame, `end_time=t` and its default categories. Our sections are its categories:
  demographics is `person`, drugs `drug_exposure`, the others their own names in the singular (condition,
  observation, measurement, procedure, death, note); sections follow one another in its order. The unit is
  the code's in codes.parquet. A date's rows are grouped by code in the order of their first rows; a line
  shows the last five values, numbers with two decimals; repeated lines of a section and date are dropped.
  Demographics stand in front, undated. Whatever has "birth" in its name reads `Birth: <date>`, as there.
* **Where the reference would leak.** It cuts by the time of an event alone: a diagnosis coded at discharge
  would be read on the day of admission. Here `available_time` decides, so the text at t is the reference's
  text of what was known.
* The reference drops rows without time as soon as an `end_time` is given, and so does `smb.static_rows:
  dropped`; `kept` is what it prints without `end_time`, from the same known rows.
* **Time.** This text does not grow at its end only: a line gains values and loses old ones, and late results
  fill past dates. So every piece has a life: it is read at t when `available <= t < until`, and the pieces
  read at t, in their order, are exactly the text at t. `available` is when the last row that the piece
  depends on became known, `until` when a row became known that puts another piece in its place. All texts
  that could ever be read are in one record, and none of its tokens depends on what came later than its own
  `available`.
* While nothing is known the text is empty; two tags (an empty demographics block) stand for it, so that a
  model always has a token to read. They are no part of the text.
* Pieces are tokenized one by one: the text is exact, but tokens do not reach across the seam between two
  pieces (a header with the line break after it; the line break before a line with its name and unit; each
  value with the comma or blank before it). A tokenizer given the whole text may merge across a seam, such as
  a closing parenthesis with the line break that follows.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from ehr_assets.contracts import SECTIONS
from ehr_assets.corpora import phrases
from ehr_assets.corpora.pieces import NAT, NO_EVENT, Pieces, StringTable, encoded
from ehr_assets.corpora.smb_lines import (
    ALWAYS,
    NEVER,
    NO_DAY,
    Lines,
    Rows,
    Values,
    birth_text,
    lay_lines,
)
from ehr_assets.corpora.smb_names import Names, name_table
from ehr_assets.corpora.spec import CorpusSpec

SECTION_ORDER = (
    "demographics",
    "conditions",
    "observations",
    "measurements",
    "procedures",
    "drugs",
    "death",
    "notes",
)
_RANK = np.array([SECTION_ORDER.index(s) for s in SECTIONS], np.int64)
# Slots before those of a line's values, in the order of the text.
_EMPTY, _HEADER, _NAME, _VALUES = range(4)


def serialize_smb(events: pl.DataFrame, codes: pl.DataFrame, spec: CorpusSpec) -> Pieces:
    """Lays out all versions of the records of whole subjects; see `serialize.serialize`."""
    subject_id, first, n_rows = np.unique(
        events["subject_id"].to_numpy(), return_index=True, return_counts=True
    )
    n = len(subject_id)
    which = np.repeat(np.arange(n), n_rows)
    available = _micros(events["available_time"])
    names = name_table(events["code"], codes, spec.smb.names)
    rows = _rows(events, which, available, names, static=spec.smb.static_rows == "kept")
    lines, values = lay_lines(rows, names, _value_of(events, rows))
    layout = _Layout(rows, lines, which[rows.row[rows.block_start]])
    table = StringTable()
    _lay_empty(layout, n)
    _lay_headers(layout, table)
    _lay_names(layout, names, table)
    _lay_values(layout, values, events, table)
    layout.sort()

    piece, strings = table.used(layout.piece)
    subject, row = layout.subject, layout.row
    real = row >= 0
    time = np.full(len(piece), NAT)
    time[real] = events["time"].to_numpy().astype("datetime64[us]")[row[real]]
    headers = layout.slot == _HEADER
    time[headers] = layout.day[headers].astype("datetime64[D]")
    event_index = np.full(len(piece), NO_EVENT, np.int32)
    event_index[real] = _event_index(which, available, first)[row[real]]
    return Pieces(
        strings=strings,
        subject_id=subject_id,
        starts=np.append(0, np.cumsum(np.bincount(subject, minlength=n))),
        n_demographics=np.bincount(subject[layout.day == NO_DAY], minlength=n),
        events=n_rows,
        piece=piece,
        event_index=event_index,
        time=time,
        available=_instants(layout.start, ALWAYS),
        until=_instants(layout.end, NEVER),
        begins=layout.begins,
    )


def _micros(times: pl.Series) -> np.ndarray:
    """int64 microseconds; null is ALWAYS (the smallest number)."""
    return times.to_numpy().astype("datetime64[us]").astype(np.int64)


def _instants(micros: np.ndarray, missing: int) -> np.ndarray:
    return np.where(micros == missing, ALWAYS, micros).view("datetime64[us]")  # the smallest number is NaT


def _event_index(which: np.ndarray, available: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Each row's place in its subject's availability order."""
    index = np.empty(len(which), np.int64)
    index[np.lexsort((available, which))] = np.arange(len(which))
    return index - first[which]


def _rows(
    events: pl.DataFrame, which: np.ndarray, available: np.ndarray, names: Names, *, static: bool
) -> Rows:
    """The rows that are text: demographics (static ones last, if at all) and dated rows, in blocks."""
    section, distinct = encoded(events["section"].fill_null(""))
    front = (_RANK[phrases.section_index(distinct)] == 0)[section]
    micros = _micros(events["time"])
    timed = micros != ALWAYS
    row = [
        np.flatnonzero(front & timed),
        np.flatnonzero(front & ~timed & static),
        np.flatnonzero(~front & timed),
    ]
    row = np.concatenate(row)
    row = row[np.argsort(which[row], kind="stable")]
    date = micros[row] // phrases.DAY
    day = np.where(front[row], NO_DAY, date)
    new = np.ones(len(row), bool)
    new[1:] = (which[row[1:]] != which[row[:-1]]) | (day[1:] != day[:-1])
    name = names.of_row[row]
    born = names.birth[name] & timed[row]
    number = ~np.isnan(events["numeric_value"].to_numpy().astype(np.float32))
    text = (events["text_value"].fill_null("") != "").to_numpy()
    return Rows(
        row=row,
        block=np.cumsum(new) - 1,
        block_start=np.flatnonzero(new),
        day=day,
        section=_RANK[phrases.section_index(distinct)][section[row]],
        # All births of one date read alike, and a line is not repeated: they are one line.
        name=np.where(born & (day != NO_DAY), len(names.texts), name),
        birth_day=np.where(born, date, NO_DAY),
        available=available[row],
        unit=names.unit_of_row[row],
        valued=(number | text)[row] & ~born,
    )


def _value_of(events: pl.DataFrame, rows: Rows) -> Callable[[int], str]:
    def text(position: int) -> str:
        number, words = events[int(rows.row[position])].select("numeric_value", "text_value").row(0)
        return words if number is None or number != number else _decimals(number)

    return text


def _decimals(number: float) -> str:
    return f"{number:.2f}"


class _Layout:
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


def _lay_empty(layout: _Layout, n_subjects: int) -> None:
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


def _lay_headers(layout: _Layout, table: StringTable) -> None:
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
        layout.lay(line, begin, end, piece, slot=_HEADER, begins=True)


def _lay_names(layout: _Layout, names: Names, table: StringTable) -> None:
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


def _lay_values(layout: _Layout, values: Values, events: pl.DataFrame, table: StringTable) -> None:
    """The values of a line: behind a blank the first that is shown, behind a comma the others."""
    lines = layout.lines
    row = layout.rows.row[values.at]
    number = events["numeric_value"].to_numpy().astype(np.float32)[row]
    numeric = ~np.isnan(number)
    position, distinct = encoded(number[numeric])
    word, words = encoded(events["text_value"].gather(row[~numeric]))
    shown = [_decimals(value) for value in distinct.to_list()]
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
