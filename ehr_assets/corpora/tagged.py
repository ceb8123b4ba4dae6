"""The tagged serialization (SMB-Structure §3.2, Table 1): a MEDS frame becomes a sequence of text pieces.

A record reads

    <demographics>⏎GENDER//F⏎Age: 63</demographics><conditions>⏎Lung cancer @-5d</conditions>+3d<drugs>…

* Rows are in *availability order*: subject, available_time, time, section, code, numeric value, text value;
  static rows first. Adjacent events that became known at the same instant and lie in the same section
  form one block between the section's tags. A gap piece says how long after the previous block a block
  became known; an event that happened over a day before it became known says so.
* The leading demographics block holds the static rows and the age, in whole years, when the first event
  became known (MEDS_BIRTH itself is not an event of the text). It is there even when it is empty.
* **Prefix property.** The record cut at t (static rows and `available_time <= t`) serializes to exactly
  the pieces of the whole record that were known at t. Every piece depends on rows known at its own
  `available` time only, and pieces are tokenized one by one, so no token ever looks ahead. The known pieces
  are a prefix, but for one case: before its first event a record has no age, and its pieces are the prefix
  without the age piece. That is why the age piece alone, in the demographics block, has an `available` time.
* **Names and units** are those of codes.parquet, which describes the whole extract: a description, or the one
  unit of a code, may come from rows of later times and of other splits. They say what a code is, nothing of a
  subject; chosen on train alone, they would be wrong for others. A code has one unit throughout.

No Python loop runs over subjects or events: pieces are integers, and only distinct ones become strings.
"""

import numpy as np
import polars as pl
from meds import birth_code

from ehr_assets.corpora import phrases
from ehr_assets.corpora.pieces import NAT, NO_EVENT, Pieces, StringTable, encoded, in_availability_order
from ehr_assets.corpora.spec import CorpusSpec

# Slots of one layout row, in the order in which they are read.
_GAP, _OPEN, _NAME, _VALUE, _LAG, _CLOSE = range(6)
_EVENT_SLOTS = np.array([False, False, True, True, True, False])
_HEADER_OPEN, _HEADER_CLOSE = -1, -2


def serialize_tagged(events: pl.DataFrame, codes: pl.DataFrame, spec: CorpusSpec) -> Pieces:
    """Lays out the records of whole subjects.

    Args:
        events: columns of a MEDS frame with `available_time` and `section`, in its order.
        codes: `metadata/codes.parquet`: code, description and, if there is one, unit.
        spec: gives the lengths at which texts and names are cut.

    Raises:
        DatasetError: a section is not one of the eight.
    """
    rows = in_availability_order(events)
    subject = rows["subject_id"].to_numpy()
    subject_id, first_row, n_rows = np.unique(subject, return_index=True, return_counts=True)
    n_subjects = len(subject_id)
    which = np.repeat(np.arange(n_subjects), n_rows)
    event_index = (np.arange(len(subject)) - np.repeat(first_row, n_rows)).astype(np.int32)
    table = StringTable()
    row_pieces = _row_pieces(rows, codes, spec, table)

    code, distinct_codes = encoded(rows["code"])
    births = np.array([c == birth_code for c in distinct_codes.to_list()], bool)
    is_birth = births[code] if len(births) else np.zeros(len(code), bool)
    kept = np.flatnonzero(~is_birth)
    which_kept = which[kept]
    available = rows["available_time"].to_numpy().astype("datetime64[us]")
    time = rows["time"].to_numpy().astype("datetime64[us]")
    static = np.isnat(available)[kept]
    layout_kept = row_pieces[kept]
    _lay_blocks(layout_kept, which_kept, available[kept], static, rows["section"].gather(kept), table)

    # Around each subject's static rows two rows that stand for the demographics block's tags.
    per_subject = np.bincount(which_kept, minlength=n_subjects)
    static_per_subject = np.bincount(which_kept[static], minlength=n_subjects)
    begin = np.cumsum(per_subject) - per_subject
    places = np.stack([begin, begin + static_per_subject], axis=1).ravel()
    layout = np.insert(np.arange(len(kept)), places, np.tile([_HEADER_OPEN, _HEADER_CLOSE], n_subjects))
    real = layout >= 0
    opens, closes = np.flatnonzero(layout == _HEADER_OPEN), np.flatnonzero(layout == _HEADER_CLOSE)
    grid = np.full((len(layout), 6), -1, np.int32)
    grid[real] = layout_kept
    grid[opens, _OPEN] = 0
    grid[closes, _CLOSE] = len(phrases.SECTIONS)
    grid_event = np.full(len(layout), NO_EVENT, np.int32)
    grid_event[real] = event_index[kept]
    grid_time = np.full(len(layout), NAT)
    grid_time[real] = time[kept]
    grid_available = np.full(len(layout), NAT)
    grid_available[real] = available[kept]

    age, age_known, birth_row = _ages(which, is_birth, time, available, begin + static_per_subject, kept)
    has_age = ~np.isnat(age_known)
    grid[closes[has_age], _NAME] = table.add(phrases.AGES) + age[has_age]
    grid_event[closes[has_age]] = event_index[birth_row[has_age]]

    filled = grid >= 0
    count = filled.sum(axis=1)
    ends = np.cumsum(count)
    piece, strings = table.used(grid[filled])
    is_event = np.broadcast_to(_EVENT_SLOTS, grid.shape)[filled]
    known = np.repeat(grid_available, count)
    # The age piece is the one before each closing tag of a demographics block.
    known[ends[closes[has_age]] - 2] = age_known[has_age]
    starts = np.append(ends[opens] - count[opens], len(piece))
    return Pieces(
        strings=strings,
        subject_id=subject_id,
        starts=starts,
        n_demographics=ends[closes] - starts[:-1],
        events=n_rows,
        piece=piece,
        event_index=np.where(is_event, np.repeat(grid_event, count), NO_EVENT).astype(np.int32),
        time=np.repeat(grid_time, count),
        available=known,
    )


def _row_pieces(
    rows: pl.DataFrame, codes: pl.DataFrame, spec: CorpusSpec, table: "StringTable"
) -> np.ndarray:
    """Grid [rows, 6] with name, value and lag of every row filled in; -1 elsewhere."""
    grid = np.full((rows.height, 6), -1, np.int32)
    code, distinct = encoded(rows["code"])
    grid[:, _NAME] = table.add(phrases.names(distinct, codes, spec.max_name_chars)) + code

    value = rows["numeric_value"].to_numpy().astype(np.float32)
    numeric = np.flatnonzero(~np.isnan(value))
    unit, distinct_units = encoded(phrases.units(distinct, codes))
    key = (unit[code[numeric]].astype(np.int64) << 32) | value[numeric].view(np.uint32)
    position, keys = encoded(key)
    keys = keys.to_numpy()
    number = phrases.numbers(pl.Series(keys.astype(np.uint32).view(np.float32)))
    grid[numeric, _VALUE] = table.add(": " + number + distinct_units.gather(keys >> 32)) + position

    is_text = np.isnan(value) & (rows["text_value"].is_not_null()).to_numpy()
    text = np.flatnonzero(is_text)
    position, distinct = encoded(rows["text_value"].gather(text))
    short = phrases.shortened(distinct, spec.max_text_chars)
    base = table.add(": " + short)
    # A text of nothing but white space says nothing.
    grid[text, _VALUE] = (
        np.where((short != "").to_numpy()[position], base + position, -1) if len(text) else -1
    )

    delay = (rows["available_time"] - rows["time"]).dt.total_microseconds().fill_null(0).to_numpy()
    late = np.flatnonzero(delay > phrases.DAY)
    grid[late, _LAG] = table.add(phrases.LAGS) + phrases.duration_index(delay[late])
    return grid


def _lay_blocks(
    grid: np.ndarray,
    which: np.ndarray,
    available: np.ndarray,
    static: np.ndarray,
    section: pl.Series,
    table: "StringTable",
) -> None:
    """Fills gap, opening and closing tags of the timed rows into `grid` (one row per event, in order)."""
    if not len(grid):
        return
    code, distinct = encoded(section.fill_null(""))
    of_section = phrases.section_index(distinct)[code]
    known = available.view(np.int64)
    follows = (which[1:] == which[:-1]) & ~static[1:] & ~static[:-1]
    later = known[1:] != known[:-1]
    starts = ~static
    starts[1:] &= ~(follows & ~later & (of_section[1:] == of_section[:-1]))
    ends = ~static
    ends[:-1] &= np.where(follows, starts[1:], True)
    grid[starts, _OPEN] = of_section[starts]
    grid[ends, _CLOSE] = len(phrases.SECTIONS) + of_section[ends]
    gap = np.flatnonzero(follows & later) + 1
    grid[gap, _GAP] = table.add(phrases.GAPS) + phrases.duration_index(known[gap] - known[gap - 1])


def _ages(
    which: np.ndarray,
    is_birth: np.ndarray,
    time: np.ndarray,
    available: np.ndarray,
    first_timed: np.ndarray,
    kept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per subject: position in `phrases.AGES`, when the age became known (NaT: no age), birth's row."""
    n = len(first_timed)
    birth_row = np.full(n, -1)
    rows = np.flatnonzero(is_birth & ~np.isnat(time))[::-1]
    birth_row[which[rows]] = rows  # reversed, so that the first one stays
    inside = np.minimum(first_timed, max(len(kept) - 1, 0))
    first_row = kept[inside] if len(kept) else np.zeros(n, np.int64)
    has = (birth_row >= 0) & (first_timed < len(kept))
    # A subject without timed rows would look at its successor's first row.
    has &= (which[first_row] == np.arange(n)) if len(which) else False
    age, known = np.zeros(n, np.int32), np.full(n, NAT)
    born, first = birth_row[has], first_row[has]
    age[has] = phrases.age_index((available[first] - time[born]).astype(np.int64))
    # A birth given by its day may become known after the first event of that day.
    known[has] = np.maximum(available[first], available[born])
    return age, known, birth_row
