"""Whether the content of one subject's record stands under another subject in another split.

A record is the set of its items: code, whole days since the record's first event, value to three digits.
Moved in time or renumbered, a copy has the same items. Candidates share a band of their MinHash signatures
(64 hashes in 16 bands of 4: two records of Jaccard similarity 0.9 meet with probability 1 - 4e-8); they are
then compared item by item. Short records, and those of nothing but what many have, are alike by nature: a
pair counts when it shares items that hardly anybody else has.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehr_assets.contracts import BIRTH, SPLITS
from ehr_assets.leakage.findings import Finding
from ehr_assets.meds.reading import events_of, iter_file, split_files

GUARD = "no_near_duplicates"
SIMILAR = 0.9
FEWEST_ITEMS = 20
MOST_PAIRS = 10_000
"""Pairs compared at most. Where their signatures leave more, there are copies without end: a failure."""
RARE_SHARED, RARE_HOLDERS, RARE_SHARE = 5, 5, 1e-3
"""So many shared items must be held by at most 5 subjects, or by one in a thousand."""
_BANDS, _ROWS = 16, 4
_NEAR = 0.75
_DAY = 86_400_000_000

Signatures = tuple[NDArray[np.int64], NDArray[np.uint32]]


def near_duplicates(scope: str, meds_dirs: Mapping[str, Path], splits: Mapping[str, pl.DataFrame]) -> Finding:
    """Pairs of subjects in different splits with records of similarity >= 0.9.

    Memory: 256 bytes per subject, and one chunk of events.

    Args:
        meds_dirs: cohort → meds_events. splits: cohort → subject_id, split.
    """
    cohorts, ids, split, signatures = [], [], [], []
    for cohort, meds_dir in meds_dirs.items():
        of = dict(splits[cohort].select("subject_id", "split").iter_rows())
        for subject, signature in _signatures(meds_dir):
            cohorts += [cohort] * len(subject)
            ids.append(subject)
            split += [of.get(s, "") for s in subject.tolist()]
            signatures.append(signature)
    n = len(split)
    pairs = _candidates(np.concatenate(signatures), np.array(split)) if n else []
    subjects = np.concatenate(ids) if n else np.zeros(0, np.int64)
    shared = _shared(pairs[:MOST_PAIRS], np.array(cohorts), subjects, meds_dirs)
    found = _with_rare_items(shared, meds_dirs, max(RARE_HOLDERS, round(RARE_SHARE * n)))
    left = max(len(pairs) - MOST_PAIRS, 0)
    return Finding(
        guard=GUARD,
        scope=scope,
        verdict="fail" if found or left else "ok",
        measured=float(found),
        limit=0.0,
        n=n,
        note=f"pairs of near-equal records in different splits, among {len(pairs)} candidates"
        + (f"; {left} candidates were not compared" if left else ""),
    )


def items(events: pl.DataFrame) -> pl.DataFrame:
    """subject_id, item (uint64), sorted and distinct, of whole subjects' timed events."""
    timed = events.filter(pl.col("time").is_not_null() & (pl.col("code") != BIRTH))
    day = (pl.col("time").to_physical() - pl.col("time").to_physical().min().over("subject_id")) // _DAY
    value = pl.col("numeric_value").round_sig_figs(3)
    item = pl.struct(pl.col("code"), day.alias("day"), value.alias("value")).hash(seed=0)
    return timed.select("subject_id", item.alias("item")).unique().sort("subject_id", "item")


def _signatures(meds_dir: Path) -> Iterator[Signatures]:
    """Per chunk of events: subjects of enough items, and their MinHash signatures (n, 64)."""
    rng = np.random.default_rng(64)
    factors = rng.integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
    added = rng.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64)
    for subject, hashes in _items_by_chunk(meds_dir):
        if not len(subject):
            continue
        starts = np.flatnonzero(np.r_[True, subject[1:] != subject[:-1]])
        # The high half of a product modulo 2^64: the low bits of a multiple are no good hash.
        columns = [
            np.minimum.reduceat((hashes * a + b) >> np.uint64(32), starts)
            for a, b in zip(factors, added, strict=True)
        ]
        yield subject[starts], np.stack(columns, axis=1).astype(np.uint32)


def _items_by_chunk(meds_dir: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """subject_id and item of all subjects with enough of them, chunk by chunk."""
    for name in SPLITS:
        for path in split_files(meds_dir, name):
            for chunk in iter_file(path):
                held = items(chunk).filter(pl.len().over("subject_id") >= FEWEST_ITEMS)
                yield held["subject_id"].to_numpy(), held["item"].to_numpy()


def _candidates(signatures: NDArray[np.uint32], split: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Pairs of rows in different splits that share a band and three quarters of their signatures, sorted.

    In a crowd, each is paired with its first member only: a band that thousands share costs thousands of
    pairs, not millions. At a similarity of 0.9 a pair has fewer equal hashes once in 10,000 times.
    """
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        part = np.ascontiguousarray(signatures[:, band * _ROWS : (band + 1) * _ROWS])
        key = part.view(np.dtype((np.void, part.dtype.itemsize * _ROWS))).ravel()
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.r_[True, key[order][1:] != key[order][:-1], True])
        for start, end in pairwise(edges.tolist()):
            if end - start < 2:
                continue
            members = order[start:end]
            for name in np.unique(split[members]):
                first = int(members[split[members] == name][0])
                others = members[split[members] != name]
                near = others[(signatures[others] == signatures[first]).mean(axis=1) >= _NEAR]
                pairs.update((min(first, o), max(first, o)) for o in near.tolist())
    return sorted(pairs)


def _shared(
    pairs: list[tuple[int, int]],
    cohorts: NDArray[np.str_],
    subjects: NDArray[np.int64],
    meds_dirs: Mapping[str, Path],
) -> list[NDArray[np.uint64]]:
    """The shared items of each pair with a Jaccard similarity of at least `SIMILAR`."""
    wanted = sorted({row for pair in pairs for row in pair})
    sets: dict[int, NDArray[np.uint64]] = {}
    for cohort, meds_dir in meds_dirs.items():
        row_of = {int(subjects[row]): row for row in wanted if cohorts[row] == cohort}
        if not row_of:
            continue
        held = items(events_of(meds_dir, pl.Series(list(row_of))))
        for (subject,), part in held.group_by("subject_id"):
            sets[row_of[int(str(subject))]] = part["item"].to_numpy()
    found = []
    for a, b in pairs:
        both = np.intersect1d(sets[a], sets[b], assume_unique=True)
        if len(both) >= SIMILAR * (len(sets[a]) + len(sets[b]) - len(both)):
            found.append(both)
    return found


def _with_rare_items(shared: list[NDArray[np.uint64]], meds_dirs: Mapping[str, Path], most: int) -> int:
    """How many of the pairs share at least `RARE_SHARED` items that at most `most` subjects hold."""
    if not shared:
        return 0
    asked = np.unique(np.concatenate(shared))
    holders = np.zeros(len(asked), np.int64)
    for meds_dir in meds_dirs.values():
        for _, hashes in _items_by_chunk(meds_dir):
            at = np.minimum(np.searchsorted(asked, hashes), len(asked) - 1)
            np.add.at(holders, at[asked[at] == hashes], 1)
    rare = holders <= most
    return sum(int(rare[np.searchsorted(asked, both)].sum()) >= RARE_SHARED for both in shared)
