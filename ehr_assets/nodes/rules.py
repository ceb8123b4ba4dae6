"""One task's labels at the nodes of a chunk: what happened in (t + buffer, t + horizon], and who is asked.

Labels are the truth about the future, so they go by when things *happened*, not by when they became known
(at-risk rules may be told otherwise). Window boundaries are exact to the microsecond.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_assets.nodes.derived import Measured, Outcomes, expand
from ehr_assets.nodes.frames import CENSORED, COMPETING, EVENT, REASONS
from ehr_assets.nodes.plan import Prior, TaskPlan
from ehr_assets.nodes.stream import NEVER, NOT_YET, Chunk, Events, Ints, Times

Mask = NDArray[np.bool_]
EVALUABLE = 0
NULL = -1


@dataclass(frozen=True)
class NodesOf:
    """The nodes of a chunk: subject (position in the chunk) and t; whether a death may be missing."""

    subject: Ints
    t: Ints
    death_in_doubt: Mask


@dataclass(frozen=True)
class Answers:
    """One task's labels, (nodes,).

    Attributes:
        reason: EVALUABLE, or 1 + the place in REASONS.
        value: 1, 0 or NULL.
        status: CENSORED, EVENT, COMPETING or NULL.
        end: the moment that the time to event runs to, or that of a regression's value; else NEVER.
        number: a regression's value, or NaN.
        events: how many events of the chunk count as the outcome, or as a measurement.
    """

    reason: NDArray[np.uint8]
    value: NDArray[np.int8]
    status: NDArray[np.int8]
    end: Ints
    number: NDArray[np.float64]
    events: int


def answer(task: TaskPlan, chunk: Chunk, nodes: NodesOf) -> Answers:
    """The task's labels at these nodes, all of which it is asked at."""
    follow = _FollowUp(task, chunk, nodes)
    before = _not_asked(task, chunk, nodes, follow)
    if task.target is not None:
        return _value(task, chunk, nodes, follow, before)
    return _event(task, chunk, nodes, follow, before)


class _FollowUp:
    """The window of each node, and how far into it the subject was followed.

    Attributes:
        opens, closes: the window is (opens, closes].
        ends: when a competing event (a death, as a rule) made the outcome impossible; NEVER if none did.
        voids: from when on outcomes no longer count; until: how far it is known what happened.
        complete: whether it is known that nothing (more) happened in the window.
    """

    def __init__(self, task: TaskPlan, chunk: Chunk, nodes: NodesOf) -> None:
        s, t = nodes.subject, nodes.t
        self.death = chunk.death_time[s]
        self.opens, self.closes = t + task.buffer, t + task.longest
        seen = chunk.last_time[s]
        extended = seen + np.where((seen > NOT_YET) & ~nodes.death_in_doubt, task.extension, 0)
        seen = np.where(seen > NOT_YET, extended, t)
        if task.until:
            closing = chunk.times_of(task.until).first_after(s, t)
            self.closes = np.minimum(self.closes, closing)
            # Whoever was there when the window closed was followed to its end.
            seen = np.where(closing == self.closes, np.maximum(seen, closing), seen)
        # A death ends follow-up, and completes it: after it nothing more can happen.
        self.until = np.where(self.death < NEVER, self.death, seen)
        self.ends = self.death if task.death_counts_as == "negative" else np.full(len(s), NEVER)
        self.voids = np.full(len(s), NEVER)
        if task.competing:
            self.voids = chunk.times_of(task.competing).first_after(s, t)
            if task.spec.competing and task.spec.competing.counts_as == "censor":
                self.until = np.minimum(self.until, self.voids)
                self.ends = np.where(self.ends <= self.voids, self.ends, NEVER)
            else:
                self.ends = np.minimum(self.ends, self.voids)
        self.ends = np.where(self.ends <= self.closes, self.ends, NEVER)
        self.complete = (self.ends < NEVER) | (self.until >= self.closes)
        stops = np.where(self.ends < NEVER, self.ends, np.minimum(self.until, self.closes))
        self.stops = np.maximum(stops, t)


def _event(task: TaskPlan, chunk: Chunk, nodes: NodesOf, follow: _FollowUp, before: "_Reasons") -> Answers:
    s, t = nodes.subject, nodes.t
    outcome = Outcomes(task.parts, task.spec.outcome.new_episode_days if task.spec.outcome else None, chunk)
    first = outcome.first_in(s, follow.opens, np.minimum(follow.closes, follow.voids), t)
    in_buffer = outcome.first_in(s, t, np.minimum(follow.opens, follow.voids), t) < NEVER
    positive = first < NEVER

    before.give("outcome_in_buffer", before.lost & in_buffer)
    before.give("not_at_risk", before.lost)
    if task.spec.in_buffer == "exclude":
        before.give("outcome_in_buffer", in_buffer)
    before.give("outcome_in_buffer", ~positive & in_buffer)
    before.give("closed_in_buffer", follow.closes <= follow.opens)
    before.give("censored", ~positive & ~follow.complete)

    evaluable = before.codes == EVALUABLE
    timed = evaluable | (before.codes == 1 + REASONS.index("censored"))
    ended = np.where(~positive & (follow.ends < NEVER), COMPETING, np.where(positive, EVENT, CENSORED))
    return Answers(
        reason=before.codes,
        value=np.where(evaluable, positive, NULL).astype(np.int8),
        status=np.where(timed, ended, NULL).astype(np.int8),
        end=np.where(timed, np.where(positive, first, follow.stops), NEVER),
        number=np.full(len(s), np.nan),
        events=outcome.count,
    )


def _value(task: TaskPlan, chunk: Chunk, nodes: NodesOf, follow: _FollowUp, before: "_Reasons") -> Answers:
    assert task.target
    assert task.spec.target
    s, take = nodes.subject, task.spec.target.take
    measured = Measured(chunk, task.target)
    first, last = measured.times.ranges(s, follow.opens, follow.closes)
    measured_at = np.flatnonzero(last > first)
    number, end = np.full(len(s), np.nan), np.full(len(s), NEVER)
    if len(measured_at):
        first, last = first[measured_at], last[measured_at]
        values = measured.value[expand(first, last)[1]]
        begins = np.cumsum(last - first) - (last - first)
        if take in _OVER_ALL:
            number[measured_at] = _OVER_ALL[take].reduceat(values, begins)
            number[measured_at] /= (last - first) if take == "mean" else 1
        else:
            number[measured_at] = measured.value[first if take == "first" else last - 1]
        end[measured_at] = measured.times.time[first if take == "first" else last - 1]
    if take == "change":
        at = measured.times.position_until(s, nodes.t)
        number -= np.where(at >= 0, measured.value[at], np.nan) if len(measured.times) else np.nan

    before.give("not_at_risk", before.lost)
    before.give("closed_in_buffer", follow.closes <= follow.opens)
    before.give("not_measured", np.isnan(number))
    if take != "first":
        before.give("censored", ~follow.complete)
    evaluable = before.codes == EVALUABLE
    nothing = np.full(len(s), NULL, np.int8)
    return Answers(
        reason=before.codes,
        value=nothing,
        status=nothing,
        end=np.where(evaluable, end, NEVER),
        number=np.where(evaluable, number, np.nan),
        events=len(measured.times),
    )


_OVER_ALL = {"min": np.minimum, "max": np.maximum, "mean": np.add}


class _Reasons:
    """Why labels are null: the first reason given to a node stays. `lost`: fell out of risk in the buffer."""

    def __init__(self, n: int) -> None:
        self.codes = np.full(n, EVALUABLE, np.uint8)
        self.lost: Mask = np.zeros(n, bool)

    def give(self, name: str, where: Mask) -> None:
        self.codes[where & (self.codes == EVALUABLE)] = 1 + REASONS.index(name)


def _not_asked(task: TaskPlan, chunk: Chunk, nodes: NodesOf, follow: _FollowUp) -> _Reasons:
    """Those whose label is null whatever the window holds."""
    s, t = nodes.subject, nodes.t
    reasons = _Reasons(len(s))
    reasons.give("after_death", follow.death <= t)
    reasons.give("end_of_life", follow.death <= t + task.end_of_life)
    for events, begin, end in task.excluded:
        times = chunk.times_of(events)
        latest = times.last_until(s, t + end)
        reasons.give("excluded", latest >= (t + begin if begin is not None else np.full(len(s), NOT_YET + 1)))

    def times_of(events: Events) -> Times:
        return chunk.times_known(events) if task.judged_as_known else chunk.times_of(events)

    if task.stay:
        start, end = (times_of(events).last_until(s, t) for events in task.stay)
        reasons.give("not_there", (start == NOT_YET) | (end > start))
    if task.requires_prior:
        times = times_of(task.requires_prior.events)
        reasons.give("not_at_risk", ~_had(task.requires_prior, times, s, t))
    if task.no_prior:
        times = times_of(task.no_prior.events)
        reasons.give("not_at_risk", _had(task.no_prior, times, s, t))
        if not task.judged_as_known:
            # Whoever falls out of risk within the buffer is not at risk when the window opens.
            reasons.lost = times.last_until(s, follow.opens) > t
    return reasons


def _had(prior: Prior, times: Times, subject: Ints, t: Ints) -> Mask:
    latest = times.last_until(subject, t)
    return latest >= (NOT_YET + 1 if prior.within is None else t - prior.within)
