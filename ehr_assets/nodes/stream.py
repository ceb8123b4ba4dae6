"""Events in bounded chunks of whole subjects, and when things happened in them: one search for all subjects.

The subjects of a chunk are laid end to end on one line of integers (`Axis`); the first event after a moment,
or the last one until it, is then one `searchsorted` for all nodes of the chunk. Times are whole microseconds
since 1970. What counts as which event is `derived.py`; what follows for a label is `rules.py`.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ehr_assets.contracts import BIRTH, DEATH, SECTIONS
from ehr_assets.meds.reading import iter_columns, series
from ehr_assets.nodes.pattern_spec import ValueCondition

Ints = NDArray[np.int64]
NEVER = np.iinfo(np.int64).max
"""The time of what does not come."""
NOT_YET = np.iinfo(np.int64).min
"""The time of what has not been."""
_LONGEST = 2.0**62


@dataclass(frozen=True)
class Events:
    """Which events: codes as positions in the list that chunks are read with; section and value if asked."""

    codes: tuple[int, ...]
    section: str | None = None
    value: ValueCondition | None = None


class Axis:
    """One line for all subjects of a chunk. A moment outside of a subject's events lies just beside them."""

    def __init__(self, first: Ints, last: Ints) -> None:
        """first, last: (subjects,) the earliest and the latest moment of each; first > last for none."""
        width = np.maximum(last - first, -1) + 3
        self.before, self.after = first - 1, np.maximum(last, first - 1) + 1
        self.base = np.concatenate([[0], np.cumsum(width)])[:-1] - self.before

    def place(self, subject: Ints, time: Ints) -> Ints:
        return self.base[subject] + np.clip(time, self.before[subject], self.after[subject])


class Times:
    """When some event happened: (n,) by subject and time.

    Args:
        told: the moments by which it is asked for, if they are not those at which it happened.
    """

    def __init__(self, axis: Axis, subject: Ints, time: Ints, told: Ints | None = None) -> None:
        self.axis = axis
        place = axis.place(subject, time if told is None else told)
        order = np.argsort(place, kind="stable") if np.any(place[1:] < place[:-1]) else slice(None)
        self.place, self.subject, self.time = place[order], subject[order], time[order]
        if told is not None and len(time):
            # The latest event of those told so far. Subjects lie in order, so none takes another's.
            latest = np.maximum.accumulate(axis.place(self.subject, self.time))
            self.time = latest - axis.base[self.subject]

    @classmethod
    def merged(cls, axis: Axis, parts: Sequence["Times"]) -> "Times":
        """All of them, by subject and time."""
        subject = np.concatenate([np.zeros(0, np.int64), *(p.subject for p in parts)])
        time = np.concatenate([np.zeros(0, np.int64), *(p.time for p in parts)])
        return cls(axis, subject, time)

    def __len__(self) -> int:
        return len(self.place)

    def ranges(self, subject: Ints, after: Ints, until: Ints) -> tuple[Ints, Ints]:
        """Per question, the events in (after, until] as positions [first, last)."""
        first = np.searchsorted(self.place, self.axis.place(subject, after), side="right")
        last = np.searchsorted(self.place, self.axis.place(subject, until), side="right")
        return first, np.maximum(first, last)

    def at(self, kept: NDArray[np.bool_]) -> "Times":
        """Only these of them."""
        if kept.all():
            return self
        some = copy.copy(self)
        some.place, some.subject, some.time = self.place[kept], self.subject[kept], self.time[kept]
        return some

    def first_after(self, subject: Ints, moment: Ints) -> Ints:
        """The time of the subject's first event strictly after `moment`; NEVER if there is none."""
        if not len(self):
            return np.full(len(subject), NEVER)
        at = np.searchsorted(self.place, self.axis.place(subject, moment), side="right")
        there = np.minimum(at, len(self) - 1)
        return np.where((at < len(self)) & (self.subject[there] == subject), self.time[there], NEVER)

    def last_until(self, subject: Ints, moment: Ints) -> Ints:
        """The time of the subject's last event at or before `moment`; NOT_YET if there is none."""
        at = self.position_until(subject, moment)
        return np.where(at >= 0, self.time[at], NOT_YET) if len(self) else np.full(len(subject), NOT_YET)

    def position_until(self, subject: Ints, moment: Ints) -> Ints:
        """Where that event stands; -1 if there is none."""
        if not len(self):
            return np.full(len(subject), -1)
        at = np.searchsorted(self.place, self.axis.place(subject, moment), side="right") - 1
        return np.where((at >= 0) & (self.subject[at] == subject), at, -1)


class Chunk:
    """The events of some subjects: those that are looked for (`rows`), and how long each was followed.

    Attributes:
        subject_ids: (subjects,) sorted; everywhere else a subject is its position here.
        subject, time, available, code, value: (rows,) by subject and time; timed events with a wanted code.
            `available` only if it was asked for.
        last_time, death_time: (subjects,) NOT_YET, NEVER if there is none.
    """

    def __init__(self, table: pa.Table, codes: Sequence[str], observed_until: Sequence[int]) -> None:
        """observed_until: positions of codes that end a subject's observation; empty if any event does."""
        n = table.num_rows
        ids = series(table["subject_id"]).to_numpy()
        starts = np.flatnonzero(np.r_[n > 0, ids[1:] != ids[:-1]]) if n else np.zeros(0, np.int64)
        self.subject_ids: Ints = ids[starts]
        subjects = len(starts)
        subject = np.repeat(np.arange(subjects), np.diff(np.r_[starts, n]))
        time, timed = _moments(table["time"])
        code = _positions(table["code"], codes)
        birth, death = (codes.index(c) for c in (BIRTH, DEATH))

        self.death_time = np.full(subjects, NEVER)
        died = timed & (code == death)
        np.minimum.at(self.death_time, subject[died], time[died])
        counted = np.where(timed & (code != birth), time, NOT_YET)
        self.last_time = np.maximum.reduceat(counted, starts) if subjects else counted
        if observed_until:
            ends = timed & np.isin(code, observed_until)
            last = np.full(subjects, NOT_YET)
            np.maximum.at(last, subject[ends], time[ends])
            self.last_time = np.where(last > NOT_YET, last, self.last_time)

        kept = np.flatnonzero(timed & (code >= 0))
        if np.any(np.diff(time[kept])[np.diff(subject[kept]) == 0] < 0):
            kept = kept[np.lexsort((time[kept], subject[kept]))]
        self.subject, self.time, self.code = subject[kept], time[kept], code[kept]
        self.value = series(table["numeric_value"]).fill_null(math.nan).to_numpy()[kept]
        names = table.column_names
        self._section = _positions(table["section"], SECTIONS)[kept] if "section" in names else None
        self.available, last = None, self.time
        if "available_time" in names:
            self.available = _moments(table["available_time"])[0][kept]
            last = np.maximum(last, np.where(self.available < NEVER, self.available, NOT_YET))
        lowest, highest = np.zeros(subjects, np.int64), np.full(subjects, -1)
        if len(kept):
            at = np.flatnonzero(np.r_[True, np.diff(self.subject) > 0])
            lowest[self.subject[at]] = np.minimum.reduceat(self.time, at)
            highest[self.subject[at]] = np.maximum.reduceat(last, at)
        self.axis = Axis(lowest, highest)
        self._found: dict[Events, Ints] = {}
        self._happened: dict[Events, Times] = {}

    @cached_property
    def _by_code(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.code, kind="stable")
        return order, np.searchsorted(self.code[order], np.arange(self.code.max(initial=-1) + 2))

    def rows_of(self, events: Events) -> Ints:
        """The rows that are such events, in order."""
        if events not in self._found:
            order, starts = self._by_code
            parts = [order[starts[c] : starts[c + 1]] for c in events.codes if c + 1 < len(starts)]
            rows = np.concatenate([np.zeros(0, np.int64), *parts])
            if len(parts) > 1:
                rows.sort()
            if events.section is not None:
                assert self._section is not None
                rows = rows[self._section[rows] == SECTIONS.index(events.section)]
            if events.value is not None:
                rows = rows[value_holds(events.value, self.value[rows])]
            self._found[events] = rows
        return self._found[events]

    def times(self, rows: Ints) -> Times:
        """When these rows happened."""
        return Times(self.axis, self.subject[rows], self.time[rows])

    def times_of(self, events: Events) -> Times:
        """When such events happened."""
        if events not in self._happened:
            self._happened[events] = self.times(self.rows_of(events))
        return self._happened[events]

    def times_known(self, events: Events) -> Times:
        """When such events happened, asked for by when they had become known."""
        assert self.available is not None
        rows = self.rows_of(events)
        rows = rows[self.available[rows] < NEVER]
        return Times(self.axis, self.subject[rows], self.time[rows], told=self.available[rows])


def read_chunks(
    path: Path, codes: Sequence[str], observed_until: Sequence[int], extra: Sequence[str]
) -> Iterator[Chunk]:
    """The chunks of one MEDS file. `extra`: section, available_time, where they are needed."""
    for table in iter_columns(path, ["time", "code", "numeric_value", *extra]):
        yield from _that_fit(table, codes, observed_until)


def _that_fit(table: pa.Table, codes: Sequence[str], observed_until: Sequence[int]) -> Iterator[Chunk]:
    """One chunk; or several, where the lifetimes of so many subjects would not fit on one line."""
    if _lifetimes(table) <= _LONGEST:
        yield Chunk(table, codes, observed_until)
        return
    ids = series(table["subject_id"]).to_numpy()
    middle = int(np.searchsorted(ids, ids[len(ids) // 2]))
    middle = middle or int(np.searchsorted(ids, ids[0], side="right"))
    for part in (table.slice(0, middle), table.slice(middle)):
        yield from _that_fit(part, codes, observed_until)


def _lifetimes(table: pa.Table) -> float:
    """How long the line of these subjects would be; 0 of a single one, which always fits."""
    ids = series(table["subject_id"]).to_numpy()
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]][: len(ids)])
    if len(starts) < 2:
        return 0.0
    columns = [table[c] for c in ("time", "available_time") if c in table.column_names]
    early = [np.where(known, moment, NEVER) for moment, known in map(_moments, columns)]
    late = [np.where(known, moment, NOT_YET) for moment, known in map(_moments, columns)]
    first = np.minimum.reduceat(np.minimum.reduce(early), starts).astype(np.float64)
    last = np.maximum.reduceat(np.maximum.reduce(late), starts).astype(np.float64)
    return float(np.sum(np.maximum(last - first, 0) + 3))


def value_holds(condition: ValueCondition, value: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The condition in float32: 6.1 as stored is not below a bound written 6.1. NaN meets none."""
    holds = ~np.isnan(value)
    for name, compare in _BOUNDS.items():
        bound = getattr(condition, name)
        if bound is not None:
            holds &= compare(value, np.float32(bound))
    return holds


_BOUNDS: Mapping[str, np.ufunc] = {
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
}


def _moments(column: pa.ChunkedArray) -> tuple[Ints, NDArray[np.bool_]]:
    """Microseconds, and where there are any; what is missing is not known for ever."""
    moments = series(column).to_physical()
    return moments.fill_null(NEVER).to_numpy(), moments.is_not_null().to_numpy()


def _positions(column: pa.ChunkedArray, wanted: Sequence[str]) -> NDArray[np.int32]:
    """Where each row's string stands in `wanted`; -1 where it does not."""
    place = {name: i for i, name in enumerate(wanted)}
    parts = [np.zeros(0, np.int32)]
    for part in column.chunks:
        found = np.array([place.get(name, -1) for name in part.dictionary.to_pylist()] + [-1], np.int32)
        parts.append(found[series(part.indices).fill_null(len(found) - 1).to_numpy()])
    return np.concatenate(parts)
