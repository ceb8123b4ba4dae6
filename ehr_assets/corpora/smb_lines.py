"""When each line and each value of the smb text is read.

The rows of one name in one section and date (or in the demographics) form a group and give one line. Its
place among the lines of its section is that of its first known row, so a row that happened earlier but became
known later moves the line: each place gives a line of its own here, read until the next takes over.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ehr_assets.corpora.smb_names import Names
from ehr_assets.corpora.smb_rows import LAST_VALUES, NEVER, NO_DAY, Lines, Rows, Values
from ehr_assets.corpora.smb_whole import whole_lines


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
        whole = whole_lines(cells, rows, names, value_of, texts)
        head, since, end, literals = whole.T
        parts.append(_Part(head, since, end, np.full(len(whole), NEVER), literals, *[_NONE] * 6))
    return _in_text_order(parts, rows, texts)


def _to_compare(cell: np.ndarray, name: np.ndarray, names: Names) -> np.ndarray:
    """Groups whose lines must be compared with others, or with themselves, as whole texts, bool [groups].

    They are those of a name with several units, and those of rivals that meet in one section and date.
    """
    if not (names.mixed.any() or names.rival.any()) or not len(cell):
        return np.zeros(len(cell), bool)
    # A dated birth has the number after the last name.
    mixed = np.append(names.mixed, False)[name]
    rival = np.append(names.rival, (names.rival & names.birth).any())[name]
    changes = np.append(False, cell[1:] != cell[:-1])
    which = np.cumsum(changes)
    return mixed | (rival & (np.bincount(which, rival) > 1)[which])


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
            born = rows.birth_day[head] != NO_DAY  # then a line has no values, whatever its static rows have
            for value in shown:
                if not born and max(value[1], moment) < min(value[4], end):
                    values.append((len(lines), *value))
            lines.append((head, moment, end, NEVER if born else valued))
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
