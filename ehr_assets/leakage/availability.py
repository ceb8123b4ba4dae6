"""Whether events keep what the cohort declares about when they were known (`availability_spec.py`).

Counted over the finished MEDS events, chunk by chunk of whole subjects. Beside the declared rules one always
holds: nothing is known before it happened, and what happened has a time at which it was known.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.contracts import SPLITS
from ehr_assets.leakage.availability_spec import AvailabilityRule, Stay
from ehr_assets.leakage.findings import Finding
from ehr_assets.meds.reading import event_codes, iter_file, matching_codes, split_files

GUARD = "known_when_declared"
_HOUR = 3_600_000_000


def known_when_declared(rules: Sequence[AvailabilityRule], cohort: str, meds_dir: Path) -> list[Finding]:
    """One finding per promise of each rule, and one for all events.

    A rule whose codes do not occur is `ok` with n = 0: an extract without a module keeps it.
    """
    codes = event_codes(meds_dir)
    asked = [_Asked(rule, promise, codes) for rule in rules for promise in rule.promises()]
    total = early = 0
    for split in SPLITS:
        for path in split_files(meds_dir, split):
            for chunk in iter_file(path):
                timed = chunk.filter(pl.col("time").is_not_null())
                total += timed.height
                early += timed.filter(
                    pl.col("available_time").is_null() | (pl.col("available_time") < pl.col("time"))
                ).height
                for one in asked:
                    one.count(chunk)
    always = Finding(
        guard=GUARD,
        scope=cohort,
        verdict="fail" if early else "ok",
        measured=float(early),
        limit=0.0,
        n=total,
        note="events known before they happened, or of unknown availability",
    )
    return [always, *(one.finding(cohort) for one in asked)]


class _Asked:
    """One promise of one rule, and the events that kept and broke it so far."""

    def __init__(self, rule: AvailabilityRule, promise: str, codes: list[str]) -> None:
        self.rule, self.promise = rule, promise
        self.codes = matching_codes(codes, rule.codes)
        stay, anchor = rule.not_during, rule.not_before
        self.anchors = matching_codes(codes, anchor.codes) if anchor else []
        self.starts = matching_codes(codes, stay.start) if stay else []
        self.ends = matching_codes(codes, stay.end) if stay else []
        self.n = self.broken = 0

    def count(self, chunk: pl.DataFrame) -> None:
        mine = chunk.filter(pl.col("code").is_in(self.codes))
        if self.promise != "timed":
            mine = mine.filter(pl.col("time").is_not_null() & pl.col("available_time").is_not_null())
        if not mine.height:
            return
        self.n += mine.height
        self.broken += int(self._breaks(mine, chunk).sum())

    def _breaks(self, mine: pl.DataFrame, chunk: pl.DataFrame) -> np.ndarray:
        """bool per row of `mine`."""
        if self.promise == "timed":
            return mine["time"].is_null().to_numpy()
        time, known = (mine[c].to_physical().to_numpy() for c in ("time", "available_time"))
        subject = mine["subject_id"].to_numpy()
        if self.promise == "known_later":
            return known <= time
        if self.promise == "at_least_hours":
            assert self.rule.at_least_hours is not None
            return known < time + round(self.rule.at_least_hours * _HOUR)
        if self.promise == "not_before":
            assert self.rule.not_before
            wait = round(self.rule.not_before.hours * _HOUR)
            return _before_anchor(subject, time, known, _times(chunk, self.anchors), wait)
        assert self.rule.not_during
        return _inside_stay(subject, time, known, _times(chunk, self.starts), _times(chunk, self.ends))

    def finding(self, cohort: str) -> Finding:
        kept = 1.0 - self.broken / self.n if self.n else 1.0
        return Finding(
            guard=GUARD,
            scope=cohort,
            verdict="ok" if kept >= self.rule.mostly else "fail",
            about=f"{' '.join(self.rule.codes)}: {self.promise}",
            measured=kept,
            limit=self.rule.mostly,
            n=self.n,
            note=self.rule.because or _what(self.rule, self.promise),
        )


def _what(rule: AvailabilityRule, promise: str) -> str:
    value = getattr(rule, promise)
    return f"from {' '.join(value.start)} to {' '.join(value.end)}" if isinstance(value, Stay) else ""


def _times(chunk: pl.DataFrame, codes: list[str]) -> dict[int, np.ndarray]:
    """Subject → the sorted times (µs) of its events with these codes."""
    found = chunk.filter(pl.col("code").is_in(codes) & pl.col("time").is_not_null())
    ids, times = found["subject_id"].to_numpy(), found["time"].to_physical().to_numpy()
    order = np.lexsort((times, ids))
    ids, times = ids[order], times[order]
    subjects, first = np.unique(ids, return_index=True)
    return dict(zip(subjects.tolist(), np.split(times, first[1:]), strict=True)) if len(ids) else {}


def _before_anchor(
    subject: np.ndarray, time: np.ndarray, known: np.ndarray, anchors: dict[int, np.ndarray], wait: int
) -> np.ndarray:
    """Known sooner than `wait` after its anchor: the last one until its time, else the first one after."""
    broken = np.ones(len(subject), bool)
    for s in np.unique(subject).tolist():
        rows = np.flatnonzero(subject == s)
        if s in anchors:
            at = np.maximum(np.searchsorted(anchors[s], time[rows], side="right") - 1, 0)
            broken[rows] = known[rows] < anchors[s][at] + wait
    return broken


def _inside_stay(
    subject: np.ndarray,
    time: np.ndarray,
    known: np.ndarray,
    starts: dict[int, np.ndarray],
    ends: dict[int, np.ndarray],
) -> np.ndarray:
    """Known within a stay (before its end) on whose first day or later it happened."""
    day = 24 * _HOUR
    broken = np.zeros(len(subject), bool)
    for s in np.unique(subject).tolist():
        rows = np.flatnonzero(subject == s)
        if s not in starts or s not in ends:
            continue
        at = np.searchsorted(starts[s], known[rows], side="right") - 1
        start = starts[s][np.maximum(at, 0)]
        to = np.searchsorted(ends[s], start, side="right")
        end = ends[s][np.minimum(to, len(ends[s]) - 1)]
        held = (at >= 0) & (to < len(ends[s])) & (time[rows] // day >= start // day)
        broken[rows] = held & (known[rows] < end)
    return broken
