"""Which forward passes give S(t) at every node: windows grouped into passes, passes into batches.

With causal attention the hidden state of a token depends on the tokens before it only. So nodes of one
subject whose windows begin with the same tokens (same demographics block, same first timed token) are
prefixes of the longest of them, and one pass over that one serves them all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ehr_assets.corpora.reader import Record, TokenCorpus
from ehr_assets.embeddings.windows import Windows
from ehr_assets.errors import DatasetError


@dataclass(slots=True)
class Pass:
    """One sequence to encode and the nodes it serves. Its tokens are looked up when it is their turn.

    Attributes:
        cohort, subject_id: whose record it is.
        time: of the node with the longest window, which is the sequence.
        length: its tokens.
        nodes: rows of the node table.
        ends: for each of those nodes, how many leading tokens are its own window (1 to `length`).
    """

    cohort: str
    subject_id: int
    time: np.datetime64
    length: int = 0
    nodes: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def read(self, corpus: TokenCorpus, windows: Windows) -> tuple[Record, np.ndarray]:
        """The record and the positions (int64 [length]) in it, with what the pass was planned with."""
        record = corpus.find(self.cohort, self.subject_id)
        assert record is not None
        return record, windows.at(record, self.time)


def read_all_nodes(nodes_dirs: Mapping[str, Path]) -> pl.DataFrame:
    """node_id, subject_id, time, cohort of all cohorts' nodes, in the order of the mapping."""
    columns = ["node_id", "subject_id", "time"]
    parts = [
        pl.DataFrame(pq.read_table(Path(folder) / "nodes.parquet", columns=columns)).with_columns(
            pl.lit(cohort).alias("cohort")
        )
        for cohort, folder in nodes_dirs.items()
    ]
    return pl.concat(parts)


def plan_passes(corpus: TokenCorpus, nodes: pl.DataFrame, windows: Windows) -> list[Pass]:
    """The passes for all nodes, longest first (ties in node order).

    Args:
        corpus: has a record for each node's subject.
        nodes: cohort, subject_id, time.
        windows: what is read at a time.

    Raises:
        DatasetError: nodes of subjects that are not in the corpus.
    """
    times = nodes["time"].to_numpy().astype("datetime64[us]")
    passes: list[Pass] = []
    missing = 0
    open_passes: dict[tuple[int, bytes, int | None], Pass] = {}
    current, record = None, None
    for row, key in enumerate(zip(nodes["cohort"], nodes["subject_id"], strict=True)):
        if key != current:
            current, record, open_passes = key, corpus.find(*key), {}
        if record is None:
            missing += 1
            continue
        shown = windows.at(record, times[row])
        head = shown[shown < record.n_demographics]
        # A window of nothing but demographics is a prefix of one that starts with the first timed token.
        start = int(shown[len(head)]) if len(shown) > len(head) else record.n_demographics
        # A text with versions at one time is no prefix of the text at another.
        alone = None if record.until is None else row
        group = open_passes.get((start, head.tobytes(), alone))
        if group is None:
            group = open_passes[(start, head.tobytes(), alone)] = Pass(*key, times[row])
            passes.append(group)
        if len(shown) > group.length:
            group.time, group.length = times[row], len(shown)
        group.nodes.append(row)
        group.ends.append(len(shown))
    if missing:
        raise DatasetError(
            f"{missing} node(s) belong to subjects who are not in the token corpus.",
            where=str(corpus.path),
            do="Materialize the token corpus and the decision nodes again, from the same meds_events.",
        )
    return sorted(passes, key=lambda p: -p.length)


def batches(passes: Sequence[Pass], batch_tokens: int) -> Iterator[list[Pass]]:
    """Runs of passes of similar length, of at most `batch_tokens` tokens with padding (or one pass)."""
    batch: list[Pass] = []
    for item in passes:
        # Longest first: the first of a batch sets its width.
        if batch and (len(batch) + 1) * batch[0].length > batch_tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
