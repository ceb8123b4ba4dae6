"""What the smb text is laid out from: its rows, and its lines and values, each with the time it is read.

Lives are [start, end) in int64 microseconds.
"""

from dataclasses import dataclass

import numpy as np

ALWAYS = np.iinfo(np.int64).min
NEVER = np.iinfo(np.int64).max
NO_DAY = ALWAYS
LAST_VALUES = 5
"""How many values of a line are shown."""


@dataclass(frozen=True)
class Rows:
    """The rows that are text (R), in blocks: a subject's demographics, or one of its dates.

    Attributes:
        row: int64 [R]: the row in the frame. Blocks are in the order of the text, rows of a block in that of
            time, static ones last.
        block: int64 [R], ascending from 0.
        block_start: int64 [blocks]: each block's first row.
        day: int64 [R]: days since 1970; NO_DAY in demographics.
        section: int64 [R]: place of the section in the text.
        name: int64 [R]: position in `Names.texts`, or their number for a dated birth, whatever its name.
        birth_day: int64 [R]: for a line that reads `Birth: <date>`, that date; else NO_DAY.
        available: int64 [R].
        unit: int64 [R]: position in `Names.unit_texts`.
        valued: bool [R]: has a number or a text that is not empty, and is no birth.
    """

    row: np.ndarray
    block: np.ndarray
    block_start: np.ndarray
    day: np.ndarray
    section: np.ndarray
    name: np.ndarray
    birth_day: np.ndarray
    available: np.ndarray
    unit: np.ndarray
    valued: np.ndarray


@dataclass(frozen=True)
class Lines:
    """L lines in the order of the text (of all versions).

    Attributes:
        block, name, birth_day: as in `Rows`.
        head: int64 [L]: position in `Rows` of the row that gives the line its place.
        start, end: int64 [L]: when it is read.
        valued: int64 [L]: from when on it has values; NEVER for none.
        literal: int64 [L]: position in `texts`, or -1.
        texts: lines written out whole, because they had to be compared with others.
    """

    block: np.ndarray
    name: np.ndarray
    birth_day: np.ndarray
    head: np.ndarray
    start: np.ndarray
    end: np.ndarray
    valued: np.ndarray
    literal: np.ndarray
    texts: list[str]


@dataclass(frozen=True)
class Values:
    """V values of lines.

    Attributes:
        line: int64 [V], position in `Lines`.
        at: int64 [V], position in `Rows`.
        start: int64 [V]: when it became known.
        followed: int64 [V]: from when on an earlier value stands before it; NEVER for none.
        fifth, out: int64 [V]: from when on it is the fifth from the end, and is shown no more.
    """

    line: np.ndarray
    at: np.ndarray
    start: np.ndarray
    followed: np.ndarray
    fifth: np.ndarray
    out: np.ndarray


def birth_text(day: int) -> str:
    """The line of a birth; `day` counts from 1970."""
    return f"Birth: {np.datetime64(day, 'D')}"
