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
  that could ever be read are in one record, and none of its tokens depends on events that became known later
  than its own `available`.
* **Names and units** are those of codes.parquet, which describes the whole extract: a description, or the one
  unit of a code, may come from rows of later times and of other splits. They say what a code is, nothing of a
  subject; chosen on train alone, they would be wrong for others. A code has one unit throughout.
* While nothing is known the text is empty; two tags (an empty demographics block) stand for it, so that a
  model always has a token to read. They are no part of the text.
* Pieces are tokenized one by one: the text is exact, but tokens do not reach across the seam between two
  pieces (a header with the line break after it; the line break before a line with its name and unit; each
  value with the comma or blank before it). A tokenizer given the whole text may merge across a seam, such as
  a closing parenthesis with the line break that follows.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import polars as pl

from ehr_assets.contracts import SECTIONS
from ehr_assets.corpora import phrases
from ehr_assets.corpora.pieces import NAT, NO_EVENT, Pieces, StringTable, encoded
from ehr_assets.corpora.smb_layout import (
    HEADER,
    Layout,
    decimals,
    lay_empty,
    lay_headers,
    lay_names,
    lay_values,
)
from ehr_assets.corpora.smb_lines import lay_lines
from ehr_assets.corpora.smb_names import Names, name_table
from ehr_assets.corpora.smb_rows import ALWAYS, NEVER, NO_DAY, Rows
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
    layout = Layout(rows, lines, which[rows.row[rows.block_start]])
    table = StringTable()
    lay_empty(layout, n)
    lay_headers(layout, table)
    lay_names(layout, names, table)
    lay_values(layout, values, events, table)
    layout.sort()

    piece, strings = table.used(layout.piece)
    subject, row = layout.subject, layout.row
    real = row >= 0
    time = np.full(len(piece), NAT)
    time[real] = events["time"].to_numpy().astype("datetime64[us]")[row[real]]
    headers = layout.slot == HEADER
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
    """The text of the value at a position in `rows`, written once."""
    numbers = events["numeric_value"].to_numpy().astype(np.float32)
    words = events["text_value"]

    @cache
    def text(position: int) -> str:
        row = int(rows.row[position])
        number = float(numbers[row])
        return words[row] if math.isnan(number) else decimals(number)

    return text
