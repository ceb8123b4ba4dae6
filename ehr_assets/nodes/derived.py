"""Outcomes as times: recorded events, and those made of several (a marker doubled, a new line of therapy).

Everything goes by when things happened (`time`). Values that one code has at one moment are averaged first.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehr_assets.nodes.frames import MICROSECONDS_PER_DAY
from ehr_assets.nodes.outcome_spec import Change, Derived, Distinct, NewLine, Ratio
from ehr_assets.nodes.stream import NEVER, Chunk, Events, Ints, Times

# float32 values: 1.3 - 1.0 must count as a rise by 0.3. Two roundings of relative size 2^-24 each.
_ROUNDING = 2.0**-23


@dataclass(frozen=True)
class Part:
    """One part of an outcome: events, only the first of each code, or what `derived` makes of them."""

    events: Events
    new_agent: bool = False
    derived: Derived | None = None


class Happenings(Protocol):
    """What can be asked of an outcome, for many nodes at once."""

    count: int

    def first_in(self, subject: Ints, after: Ints, until: Ints, node: Ints) -> Ints:
        """The time of the first one in (after, until]; NEVER if there is none. `node`: the nodes' own t."""
        ...


class Outcomes:
    """An outcome in a chunk: its parts together, as episodes if it has some."""

    def __init__(self, parts: Sequence[Part], episode_days: float | None, chunk: Chunk) -> None:
        at_node = [p for p in parts if getattr(p.derived, "against", None) == "node"]
        fixed = [_times(p, chunk) for p in parts if p not in at_node]
        self.ways: list[Happenings] = [_Fixed(_together(fixed, episode_days, chunk))] if fixed else []
        self.ways += [_AgainstNode(p, chunk) for p in at_node]
        self.count = sum(way.count for way in self.ways)

    def first_in(self, subject: Ints, after: Ints, until: Ints, node: Ints) -> Ints:
        found = (way.first_in(subject, after, until, node) for way in self.ways)
        return functools.reduce(np.minimum, found)


class _Fixed:
    """Events that are the same from whichever node one looks."""

    def __init__(self, times: Times) -> None:
        self.times, self.count = times, len(times)

    def first_in(self, subject: Ints, after: Ints, until: Ints, node: Ints) -> Ints:
        first = self.times.first_after(subject, after)
        return np.where(first <= until, first, NEVER)


class _AgainstNode:
    """Values held against the last one at the node."""

    def __init__(self, part: Part, chunk: Chunk) -> None:
        assert isinstance(part.derived, Ratio | Change)
        self.rule = part.derived
        self.codes = [Measured(chunk, Events((c,), part.events.section)) for c in part.events.codes]
        self.codes = [measured for measured in self.codes if len(measured.times)]
        self.count = sum(len(measured.times) for measured in self.codes)

    def first_in(self, subject: Ints, after: Ints, until: Ints, node: Ints) -> Ints:
        found = np.full(len(subject), NEVER)
        for measured in self.codes:
            before = measured.times.position_until(subject, node)
            reference = np.where(before >= 0, measured.value[before], np.nan)
            asked, at = expand(*measured.times.ranges(subject, after, until))
            holds = _differs(self.rule, measured.value[at], reference[asked])
            np.minimum.at(found, asked[holds], measured.times.time[at[holds]])
        return found


class Measured:
    """Finite values of some events of a chunk, by subject and time; those at one moment are averaged."""

    def __init__(self, chunk: Chunk, events: Events) -> None:
        rows = chunk.rows_of(events)
        rows = rows[np.isfinite(chunk.value[rows])]
        rows = rows[np.lexsort((chunk.value[rows], chunk.time[rows], chunk.subject[rows]))]
        subject, time = chunk.subject[rows], chunk.time[rows]
        first = np.flatnonzero(
            np.r_[len(rows) > 0, (np.diff(subject) != 0) | (np.diff(time) != 0)][: len(rows)]
        )
        sums = np.add.reduceat(chunk.value[rows].astype(np.float64), first) if len(rows) else np.zeros(0)
        self.value: NDArray[np.float64] = sums / np.diff(np.r_[first, len(rows)])
        self.times = Times(chunk.axis, subject[first], time[first])


def expand(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Every position of the ranges [first, last), with the number of its range beside it."""
    lengths = last - first
    which = np.repeat(np.arange(len(first)), lengths)
    start = np.cumsum(lengths) - lengths
    return which, np.arange(len(which)) - start[which] + first[which]


def _times(part: Part, chunk: Chunk) -> Times:
    rule = part.derived
    if rule is None and not part.new_agent:
        return chunk.times_of(part.events)
    rows = chunk.rows_of(part.events)
    if rule is None:
        return chunk.times(np.sort(_first_of_each_code(chunk, rows)))
    if isinstance(rule, NewLine):
        return chunk.times(_new_lines(rule, chunk, rows))
    if isinstance(rule, Distinct):
        return chunk.times(_with_enough_codes(rule, chunk, rows))
    found = [_changes(rule, chunk, Events((code,), part.events.section)) for code in part.events.codes]
    return _together(found, None, chunk)


def _together(parts: Sequence[Times], episode_days: float | None, chunk: Chunk) -> Times:
    """All of them by subject and time, each moment once; only what begins an episode."""
    times = parts[0] if len(parts) == 1 else Times.merged(chunk.axis, parts)
    gap = 0 if episode_days is None else round(episode_days * MICROSECONDS_PER_DAY)
    return times.at(_apart(times.subject, times.time, gap))


def _apart(subject: Ints, time: Ints, gap: int) -> NDArray[np.bool_]:
    """Of events by subject and time: the first, and those more than `gap` after the one before."""
    return np.r_[True, (np.diff(subject) != 0) | (np.diff(time) > gap)][: len(time)]


def _first_of_each_code(chunk: Chunk, rows: Ints) -> Ints:
    pair = chunk.code[rows].astype(np.int64) * len(chunk.subject_ids) + chunk.subject[rows]
    return rows[np.unique(pair, return_index=True)[1]]


def _changes(rule: Ratio | Change, chunk: Chunk, events: Events) -> Times:
    """Where a value of one code differs enough from those of the subject before it."""
    measured = Measured(chunk, events)
    value = pl.col("value")
    earlier = {"previous": value, "lowest": value.cum_min(), "highest": value.cum_max()}[rule.against]
    frame = pl.DataFrame({"subject": measured.times.subject, "value": measured.value})
    before = frame.select(earlier.shift(1).over("subject").fill_null(np.nan))["value"].to_numpy()
    holds = _differs(rule, measured.value, before)
    return Times(chunk.axis, measured.times.subject[holds], measured.times.time[holds])


def _differs(
    rule: Ratio | Change, value: NDArray[np.float64], reference: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether the rule holds, give or take the rounding to float32; not where the reference is missing."""
    if isinstance(rule, Ratio):
        bound = np.where(reference > 0, rule.by * reference, np.nan)
    else:
        bound = reference + rule.by
    slack = (np.abs(value) + np.abs(bound if isinstance(rule, Ratio) else reference)) * _ROUNDING
    return value >= bound - slack if rule.rises else value <= bound + slack


def _new_lines(rule: NewLine, chunk: Chunk, rows: Ints) -> Ints:
    """The rows that start a line of therapy."""
    gap = round(rule.gap_days * MICROSECONDS_PER_DAY)
    combine = round(rule.combine_days * MICROSECONDS_PER_DAY)
    subject, time = chunk.subject[rows], chunk.time[rows]
    resumed = _apart(subject, time, gap)
    new = np.isin(rows, _first_of_each_code(chunk, rows))
    # Only few rows can start a line; whether one does depends on the line before it.
    starts = []
    of, begun = -1, 0
    for at in np.flatnonzero(resumed | new).tolist():
        if resumed[at] or subject[at] != of or time[at] - begun > combine:
            starts.append(at)
            of, begun = subject[at], time[at]
    return rows[starts] if starts else rows[:0]


def _with_enough_codes(rule: Distinct, chunk: Chunk, rows: Ints) -> Ints:
    """The rows by which enough different codes were seen within the days before."""
    subject, time = chunk.subject[rows], chunk.time[rows]
    since = time - round(rule.within_days * MICROSECONDS_PER_DAY)
    seen = np.zeros(len(rows), np.int64)
    for code in sorted(set(chunk.code[rows].tolist())):
        one = chunk.times(rows[chunk.code[rows] == code])
        seen += one.last_until(subject, time) > since
    return rows[seen >= rule.at_least]
