"""When each line and each value of the smb text is read: lives [start, end) in int64 microseconds.

The rows of one name in one section and date (or in the demographics) form a group and give one line. Its
place among the lines of its section is that of its first known row, so a row that happened earlier but became
known later moves the line: each place gives a line of its own here, read until the next takes over.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ehr_assets.corpora.smb_names import Names

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


def lay_lines(rows: Rows, names: Names, value_of: Callable[[int], str]) -> tuple[Lines, Values]:
    """The lines and values of all rows.

    Args:
        rows, names: what there is to show.
        value_of: the text of the value at a position in `rows`; asked only where whole lines are compared.
    """
    n = len(names.texts)
    key = (rows.block * 8 + rows.section) * (n + 1) + rows.name
    order = np.argsort(key, kind="stable")
    key, available = key[order], rows.available[order]
    new = np.ones(len(key), bool)
    new[1:] = key[1:] != key[:-1]
    start = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    backwards = np.zeros(len(start), bool)
    backwards[group[1:][(available[1:] < available[:-1]) & ~new[1:]]] = True
    literal = _to_compare(key[start] // (n + 1), key[start] % (n + 1), names)

    plain = ~(backwards | literal)
    parts = [_in_order(order, available, group, start, plain, rows)]
    stop = np.append(start[1:], len(key))
    moved = np.flatnonzero(backwards & ~literal)
    parts.append(_moving((order[start[g] : stop[g]] for g in moved), rows))
    texts: list[str] = []
    if literal.any():
        mine = literal[group]
        positions, cell = order[mine], (key // (n + 1))[mine]
        cells = np.split(positions, np.flatnonzero(np.diff(cell)) + 1)
        parts.append(_compared_lines(cells, rows, names, value_of, texts))
    return _in_text_order(parts, rows, texts)


def _to_compare(cell: np.ndarray, name: np.ndarray, names: Names) -> np.ndarray:
    """Groups of the sections and dates in which whole lines must be compared, bool [groups]."""
    if not (names.mixed.any() or names.rival.any()) or not len(cell):
        return np.zeros(len(cell), bool)
    # A dated birth has the number after the last name, and but one line.
    mixed, rival = np.append(names.mixed, False)[name], np.append(names.rival, False)[name]
    changes = np.append(False, cell[1:] != cell[:-1])
    which = np.cumsum(changes)
    awkward = (np.bincount(which, rival) > 1) | (np.bincount(which, mixed) > 0)
    return awkward[which]


@dataclass(frozen=True)
class _Part:
    """Lines and their values, not yet in order; `line` counts within the part."""

    head: np.ndarray
    start: np.ndarray
    end: np.ndarray
    valued: np.ndarray
    literal: np.ndarray
    line: np.ndarray
    at: np.ndarray
    value_start: np.ndarray
    followed: np.ndarray
    fifth: np.ndarray
    out: np.ndarray


_NONE = np.zeros(0, np.int64)


def _in_order(
    order: np.ndarray,
    available: np.ndarray,
    group: np.ndarray,
    start: np.ndarray,
    plain: np.ndarray,
    rows: Rows,
) -> _Part:
    """Groups whose rows became known in the order in which they happened: one line each."""
    number = np.cumsum(plain) - 1
    value = np.flatnonzero(rows.valued[order] & plain[group])
    of, known = group[value], available[value]
    first = np.ones(len(value), bool)
    first[1:] = of[1:] != of[:-1]
    first_known = known[first]
    which = np.cumsum(first) - 1
    valued = np.full(len(start), NEVER)
    valued[of[first]] = first_known

    def later(by: int) -> np.ndarray:
        """When the value `by` places further on in the group became known."""
        found = np.full(len(value), NEVER)
        same = of[by:] == of[:-by]
        found[:-by][same] = known[by:][same]
        return found

    return _Part(
        head=order[start[plain]],
        start=available[start[plain]],
        end=np.full(int(plain.sum()), NEVER),
        valued=valued[plain],
        literal=np.full(int(plain.sum()), -1),
        line=number[of],
        at=order[value],
        value_start=known,
        followed=np.where(first, NEVER, first_known[which]) if len(value) else _NONE,
        fifth=later(LAST_VALUES - 1) if len(value) else _NONE,
        out=later(LAST_VALUES) if len(value) else _NONE,
    )


def _moving(groups: Iterable[np.ndarray], rows: Rows) -> _Part:
    """Groups in which a row became known before one that happened earlier: a line for each place."""
    lines: list[tuple[int, int, int, int]] = []
    values: list[tuple[int, int, int, int, int, int]] = []
    for positions in groups:
        known = rows.available[positions].tolist()
        shown, valued = _lives(positions, known, np.flatnonzero(rows.valued[positions]).tolist())
        end = NEVER
        for head, moment in zip(positions.tolist(), known, strict=True):
            if moment >= end:
                continue
            for value in shown:
                if max(value[1], moment) < min(value[4], end):
                    values.append((len(lines), *value))
            lines.append((head, moment, end, valued))
            end = moment
    line = np.array(lines, np.int64).reshape(-1, 4).T
    value = np.array(values, np.int64).reshape(-1, 6).T
    return _Part(line[0], line[1], line[2], line[3], np.full(len(lines), -1), *value)


def _lives(
    positions: np.ndarray, known: list[int], valued: list[int]
) -> tuple[list[tuple[int, int, int, int, int]], int]:
    """(position, start, followed, fifth, out) of the values that are ever shown; when the first is known."""
    found: list[tuple[int, int, int]] = []
    latest: list[int] = []
    for i in reversed(valued):
        fifth = latest[LAST_VALUES - 2] if len(latest) >= LAST_VALUES - 1 else NEVER
        found.append((i, fifth, latest[LAST_VALUES - 1] if len(latest) >= LAST_VALUES else NEVER))
        insort(latest, known[i])
        del latest[LAST_VALUES:]
    shown = []
    earliest = NEVER
    for i, fifth, out in reversed(found):
        if known[i] < out:
            shown.append((int(positions[i]), known[i], earliest, fifth, out))
        earliest = min(earliest, known[i])
    return shown, earliest


def _compared_lines(
    cells: Iterable[np.ndarray],
    rows: Rows,
    names: Names,
    value_of: Callable[[int], str],
    texts: list[str],
) -> _Part:
    """Sections in which lines must be compared, written out whole at every moment something became known."""
    lines: list[tuple[int, int, int, int, int]] = []
    for positions in cells:
        open_since: dict[tuple[int, str], int] = {}
        ordered = np.sort(positions)
        moments = np.unique(rows.available[ordered]).tolist()
        for moment in [*moments, NEVER]:
            known = [] if moment == NEVER else ordered[rows.available[ordered] <= moment].tolist()
            now = _whole_lines(known, rows, names, value_of)
            for line in [line for line in open_since if line not in now or moment == NEVER]:
                lines.append((line[0], open_since.pop(line), moment, NEVER, len(texts)))
                texts.append(line[1])
            for line in now:
                open_since.setdefault(line, moment)
    head, start, end, valued, literal = np.array(lines, np.int64).reshape(-1, 5).T
    return _Part(head, start, end, valued, literal, *[_NONE] * 6)


def _whole_lines(
    known: list[int], rows: Rows, names: Names, value_of: Callable[[int], str]
) -> dict[tuple[int, str], None]:
    """(position of the first row, text) of the lines of one section, without repeated texts."""
    groups: dict[int, list[int]] = {}
    for position in known:
        groups.setdefault(int(rows.name[position]), []).append(position)
    found: dict[str, int] = {}
    for name, members in groups.items():
        valued = [p for p in members if rows.valued[p]]
        day = int(rows.birth_day[members[0]])
        if day != NO_DAY:
            text = birth_text(day)
        elif valued:
            unit = names.unit_texts[rows.unit[valued[-1]]]
            text = f"{names.texts[name]}{unit}: {', '.join(map(value_of, valued[-LAST_VALUES:]))}"
        else:
            text = names.texts[name]
        found.setdefault(text, members[0])
    return {(head, text): None for text, head in found.items()}


def birth_text(day: int) -> str:
    """The line of a birth; `day` counts from 1970."""
    return f"Birth: {np.datetime64(day, 'D')}"


def _in_text_order(parts: list[_Part], rows: Rows, texts: list[str]) -> tuple[Lines, Values]:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    head = joined("head")
    order = np.lexsort((joined("start"), head, rows.section[head], rows.block[head]))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    sizes = np.cumsum([0, *(len(part.head) for part in parts)])
    head = head[order]
    lines = Lines(
        block=rows.block[head],
        name=rows.name[head],
        birth_day=rows.birth_day[head],
        head=head,
        start=joined("start")[order],
        end=joined("end")[order],
        valued=joined("valued")[order],
        literal=joined("literal")[order],
        texts=texts,
    )
    values = Values(
        line=place[np.concatenate([part.line + base for part, base in zip(parts, sizes, strict=False)])],
        at=joined("at"),
        start=joined("value_start"),
        followed=joined("followed"),
        fifth=joined("fifth"),
        out=joined("out"),
    )
    return lines, values
