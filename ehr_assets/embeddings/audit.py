"""Looking back at embeddings: what was read at each node, held against the record; what no probe can use.

What was read stands in the embeddings file. What should have been read is found here from the record's
arrays, by arithmetic of its own: a fault in what lays windows is not repeated here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.corpora.reader import Record, TokenCorpus
from ehr_assets.embeddings.shards import EMBEDDINGS
from ehr_assets.errors import DatasetError

_NAT = np.iinfo(np.int64).min
_READ = ("cohort", "subject_id", "time", "tokens", "timed_tokens", "first_timed", "last")


@dataclass(frozen=True)
class WindowsRead:
    """Nodes by what is wrong with what was read at them.

    Attributes:
        nodes: looked at.
        with_future: a token was read that was unknown at t (of a text with versions: the first or the last).
        not_newest: the window ends before the newest token known at t, as if cut on the right.
        not_whole: between the window's ends, another number of tokens was read than were known.
        without_record: the subject is not in the corpus.
    """

    nodes: int = 0
    with_future: int = 0
    not_newest: int = 0
    not_whole: int = 0
    without_record: int = 0

    @property
    def ok(self) -> bool:
        return not (self.with_future or self.not_newest or self.not_whole or self.without_record)


def windows_read(corpus_dir: Path, embeddings_dir: Path) -> WindowsRead:
    """Holds what was read at each node against the tokens that were known then.

    Args:
        corpus_dir: the token corpus of the embeddings.
        embeddings_dir: what `embed_nodes` wrote.
    """
    corpus = TokenCorpus(corpus_dir)
    counts: Counter[str] = Counter()
    key, record = None, None
    for table in _row_groups(embeddings_dir, _READ):
        for row in pl.DataFrame(table).iter_rows(named=True):
            if key != (row["cohort"], row["subject_id"]):
                key = (row["cohort"], row["subject_id"])
                record = corpus.find(*key)
            counts["nodes"] += 1
            if record is None:
                counts["without_record"] += 1
                continue
            for fault in _faults(record, row):
                counts[fault] += 1
    return WindowsRead(**counts)


def _faults(record: Record, read: Mapping[str, Any]) -> list[str]:
    """What is wrong at one node. read: its row of the embeddings file."""
    t = np.datetime64(read["time"], "us").astype(np.int64)
    available = record.available.astype(np.int64)
    unknown = available > t  # NaT is the smallest number: always known
    known = ~unknown
    if record.until is not None:
        until = record.until.astype(np.int64)
        known &= (until == _NAT) | (until > t)
    timed = np.flatnonzero(known[record.n_demographics :]) + record.n_demographics
    first, last = read["first_timed"], read["last"]
    if first is None:
        return ["not_newest"] if len(timed) else ["with_future"] if unknown[last] else []
    faults = []
    # In a text with versions, tokens that became known later stand between those that are read.
    ends = [first, last] if record.until is not None else slice(first, last + 1)
    demographics = read["tokens"] - read["timed_tokens"]
    if unknown[ends].any() or demographics > known[: record.n_demographics].sum():
        faults.append("with_future")
    if not len(timed) or last < timed[-1]:
        faults.append("not_newest")
    if int(((timed >= first) & (timed <= last)).sum()) != read["timed_tokens"]:
        faults.append("not_whole")
    return faults


@dataclass(frozen=True)
class States:
    """What probes can use. `missing`, `repeated`: of the decision nodes. `constant`: all states are equal."""

    nodes: int
    missing: int
    repeated: int
    not_finite: int
    constant: bool


def states(embeddings_dir: Path, nodes_dirs: Mapping[str, Path]) -> States:
    """Counts in a pass over the file that holds one row group in memory at a time."""
    nodes = pl.concat(
        pl.DataFrame(pq.read_table(Path(d) / "nodes.parquet", columns=["node_id"]))
        for d in nodes_dirs.values()
    )["node_id"]
    ids: list[pl.Series] = [pl.Series("node_id", [], pl.String)]
    not_finite, constant, one = 0, True, None
    for table in _row_groups(embeddings_dir, ("node_id", "embedding")):
        ids.append(pl.DataFrame(table.select(["node_id"]))["node_id"])
        width = table.schema.field("embedding").type.list_size
        values = np.concatenate([c.flatten().to_numpy() for c in table["embedding"].chunks])
        values = values.reshape(-1, width)
        finite = values[np.isfinite(values).all(axis=1)]
        not_finite += len(values) - len(finite)
        one = finite[0] if one is None and len(finite) else one
        constant = constant and bool((finite == one).all())
    found = pl.concat(ids)
    return States(
        nodes=len(nodes),
        missing=len(nodes) - int(nodes.is_in(found.implode()).sum()),
        repeated=len(found) - found.n_unique(),
        not_finite=not_finite,
        constant=constant and len(found) - not_finite > 1,
    )


def _row_groups(embeddings_dir: Path, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    path = Path(embeddings_dir) / EMBEDDINGS
    file = pq.ParquetFile(path)
    if missing := set(columns) - set(file.schema_arrow.names):
        raise DatasetError(
            f"The embeddings have no column {', '.join(sorted(missing))}: an earlier version made them.",
            where=str(path),
            do="Materialize the node embeddings again.",
        )
    for i in range(file.num_row_groups):
        yield file.read_row_group(i, columns=list(columns))
