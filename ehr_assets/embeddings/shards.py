"""Shards: nodes of some thousand subjects that are embedded at a time, and what was embedded of them so far.

`node_shards` cuts the node tables; `Kept` holds finished shards in a work folder, so that an interrupted run
goes on where it was, and puts them together to one file. Neither holds more than one shard in memory.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.lineage.hashing import file_sha256

NODES = pl.Schema(
    {"node_id": pl.String, "subject_id": pl.Int64, "time": pl.Datetime("us"), "cohort": pl.String}
)
EMBEDDINGS = "embeddings.parquet"
MADE_WITH = "made_with.json"
_ROWS_AT_ONCE = 65_536


def count_nodes(nodes_dirs: Mapping[str, Path]) -> int:
    return sum(pq.read_metadata(Path(d) / "nodes.parquet").num_rows for d in nodes_dirs.values())


def node_shards(nodes_dirs: Mapping[str, Path], subjects: int, most: int) -> Iterator[pl.DataFrame]:
    """node_id, subject_id, time, cohort of all nodes, in the order of the mapping and of `nodes.parquet`.

    A shard holds nodes of one cohort: of `subjects` subjects, or of fewer where those have more than `most`
    nodes together (a subject is not torn). Where it is cut follows from the nodes alone.
    """
    for cohort, folder in nodes_dirs.items():
        file = pq.ParquetFile(Path(folder) / "nodes.parquet")
        rest = pl.DataFrame(schema=NODES)
        for batch in chain(file.iter_batches(_ROWS_AT_ONCE, columns=list(NODES)[:-1]), [None]):
            if batch is not None:
                part = pl.DataFrame(pa.Table.from_batches([batch])).with_columns(
                    pl.lit(cohort).alias("cohort")
                )
                rest = pl.concat([rest, part.select(list(NODES)).cast(NODES)])
            while cut := _cut(rest["subject_id"].to_numpy(), subjects, most, is_all=batch is None):
                yield rest[:cut]
                rest = rest[cut:]


def _cut(ids: np.ndarray, subjects: int, most: int, *, is_all: bool) -> int:
    """How many leading rows are a shard; 0 while more rows must be seen to tell (or there are none)."""
    ends = np.flatnonzero(ids[1:] != ids[:-1]) + 1  # of all subjects but the last, who may go on
    if is_all and len(ids):
        ends = np.append(ends, len(ids))
    if not len(ends) or (not is_all and len(ends) < subjects and len(ids) <= most):
        return 0
    ends = ends[:subjects]
    return int(max(ends[0], ends[ends <= most].max(initial=0)))


class Kept:
    """Finished shards in a folder, each with the hash of its bytes and with what was counted.

    Args:
        folder: kept from one run to the next. Shards in it that were made with anything else than
            `made_with` are thrown away.
        made_with: plain data: all that decides about a shard's content but its nodes.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        note, text = self.folder / MADE_WITH, json.dumps(made_with, sort_keys=True)
        if note.is_file() and note.read_text(encoding="utf-8") != text:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        note.write_text(text, encoding="utf-8")

    def counts(self, i: int, nodes: pl.DataFrame) -> dict[str, int] | None:
        """What was counted when shard i was made of these nodes; None if it was not, or is damaged."""
        try:
            done = json.loads(self._file(i, "json").read_text(encoding="utf-8"))
            whole = file_sha256(self._file(i, "parquet")) == done["sha256"]
        except (OSError, ValueError, KeyError):
            return None
        return done["counts"] if whole and done["nodes"] == _sha256_of(nodes) else None

    def keep(self, i: int, nodes: pl.DataFrame, table: pa.Table, counts: Mapping[str, int]) -> None:
        """Writes shard i. Whenever the process is killed, the shard is there as a whole or not at all."""
        file = self._file(i, "parquet")
        pq.write_table(table, file, compression="zstd")
        done = {"sha256": file_sha256(file), "nodes": _sha256_of(nodes), "counts": dict(counts)}
        part = self._file(i, "part")
        part.write_text(json.dumps(done), encoding="utf-8")
        part.replace(self._file(i, "json"))

    def tables(self, shards: int) -> Iterator[pa.Table]:
        """The first so many shards, one at a time."""
        for i in range(shards):
            yield pq.read_table(self._file(i, "parquet"))

    def _file(self, i: int, ending: str) -> Path:
        return self.folder / f"shard-{i:05}.{ending}"


def _sha256_of(nodes: pl.DataFrame) -> str:
    digest = hashlib.sha256("\n".join(nodes["node_id"]).encode())
    for column in ("subject_id", "time"):
        digest.update(nodes[column].to_physical().to_numpy().tobytes())
    return digest.hexdigest()
