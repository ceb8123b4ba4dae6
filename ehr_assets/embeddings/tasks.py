"""A shard of nodes as a task: loaded model, one forward pass after another, a table kept in the work folder.

Done in this process or by the workers of a cluster; what a task needs to know is in its arguments.
"""

import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.embeddings.encoder import Encoder, Pooling, Precision, Source, workers
from ehr_assets.embeddings.plan import Pass, batches, plan_passes
from ehr_assets.embeddings.shards import Kept
from ehr_assets.embeddings.windows import Windows
from ehr_assets.errors import DatasetError

BATCH_TOKENS = {"cpu": 1_024, "cuda": 8_192}
"""A core is busy with a thousand tokens; with more at a time, others wait for the last one."""


@dataclass(frozen=True)
class How:
    """All that a worker, here or elsewhere, needs to embed shards in the same way. See `embed_nodes`."""

    source: Path | Source
    corpus_dir: Path
    windows: Windows
    pooling: Pooling
    dtype: Precision
    device: str
    batch_tokens: int | None
    cores: int | None


@dataclass(frozen=True)
class About:
    """What came out of loading the model."""

    made_with: dict[str, Any]
    dimensions: int
    max_positions: int | None
    dtype: str
    device: str


@dataclass(frozen=True)
class ShardTask:
    """A task: some nodes, to be embedded and kept as shard i, unless they are kept already."""

    how: How
    about: About
    kept: Kept
    i: int
    nodes: pl.DataFrame
    progress: Callable[[int], object]


def unwatched(_: int) -> None:
    """Of a task that is done elsewhere, nothing is told before its end."""


def about_model(how: How) -> About:
    shards = _opened(how)
    encoder = shards.encoder
    return About(
        shards.made_with(),
        encoder.hidden_size,
        encoder.max_positions,
        encoder.dtype,
        encoder.device.type,
    )


def embed_shard(task: ShardTask) -> dict[str, int]:
    found = task.kept.counts(task.i, task.nodes)
    if found is None:
        shards = _opened(task.how)
        if shards.made_with() != task.about.made_with:
            raise DatasetError(
                "The machines of the cluster differ in their processors, and so would the states they make.",
                where=f"{shards.made_with()['device']} and {task.about.made_with['device']}",
                do="Give all nodes that take tasks GPUs of one kind, or none; or leave EHR_RAY_ADDRESS out.",
            )
        table, found = shards.embed(task.nodes, task.progress)
        task.kept.keep(task.i, task.nodes, table, found)
    return found


def _opened(how: How) -> "_Shards":
    """The model and the corpus, loaded once in a process. By their pickle: sources need not be hashable."""
    return _shards(pickle.dumps(how))


def forget() -> None:
    """Lets go of the model that this process has loaded."""
    _shards.cache_clear()


@lru_cache(1)
def _shards(pickled: bytes) -> "_Shards":
    how: How = pickle.loads(pickled)
    encoder = Encoder(how.source, how.device, how.dtype)
    batch_tokens = how.batch_tokens or BATCH_TOKENS.get(encoder.device.type, BATCH_TOKENS["cuda"])
    corpus, name = TokenCorpus(how.corpus_dir), str(how.source)
    return _Shards(encoder, corpus, how.windows, how.pooling, batch_tokens, how.cores, name)


@dataclass(frozen=True)
class _Shards:
    """Embeds one shard after another, all in the same way. `name`: the encoder's, for errors."""

    encoder: Encoder
    corpus: TokenCorpus
    windows: Windows
    pooling: Pooling
    batch_tokens: int
    cores: int | None
    name: str

    def made_with(self) -> dict[str, Any]:
        """Plain data: what decides about the states beside checkpoint and corpus (whose folder a work folder
        belongs to). A run that goes on on another processor begins anew."""
        return {
            "max_tokens": self.windows.max_tokens,
            "anchor": self.windows.anchor,
            "pooling": self.pooling,
            "batch_tokens": self.batch_tokens,
            "dtype": self.encoder.dtype,
            "device": _processor(self.encoder),
        }

    def embed(
        self, nodes: pl.DataFrame, progress: Callable[[int], object]
    ) -> tuple[pa.Table, dict[str, int]]:
        """The shard as a table, and what was counted. progress: is told how many of its nodes are done."""
        passes = plan_passes(self.corpus, nodes, self.windows)
        states = np.zeros((nodes.height, self.encoder.hidden_size), np.float32)
        read = np.zeros((nodes.height, 4), np.int32)
        groups, done = list(batches(passes, self.batch_tokens)), 0
        with workers(self.encoder.device, self.cores) as pool:
            for batch, found in zip(groups, pool.map(self._encode, groups), strict=True):
                for item, (vectors, spans) in zip(batch, found, strict=True):
                    states[item.nodes], read[item.nodes] = vectors, spans
                    done += len(item.nodes)
                progress(done)
        counts = {
            "nodes": nodes.height,
            "subjects": nodes["subject_id"].n_unique(),
            "passes": len(passes),
            "tokens": sum(p.length for p in passes),
            "tokens_one_by_one": sum(sum(p.ends) for p in passes),
        }
        return _table(nodes, states, read), counts

    def _encode(self, batch: list[Pass]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each pass and each of its nodes: the state, and what was read (tokens, timed, first, last)."""
        looked_up = [item.read(self.corpus, self.windows) for item in batch]
        tokens = [record.token_ids[at] for record, at in looked_up]
        known, largest = self.encoder.vocabulary, max(int(ids.max()) for ids in tokens)
        if largest >= known:
            raise DatasetError(
                f"The corpus uses token {largest}, the checkpoint embeds {known} tokens only.",
                where=f"{self.corpus.path} and {self.name}",
                do="Train the recipe again on this corpus.",
            )
        vectors = self.encoder.encode(tokens, [item.ends for item in batch], self.pooling)
        spans = []
        for item, (record, at) in zip(batch, looked_up, strict=True):
            head = int(np.searchsorted(at, record.n_demographics))
            ends = np.asarray(item.ends)
            timed = np.maximum(ends - head, 0)
            first = np.where(timed > 0, at[min(head, len(at) - 1)], -1)
            spans.append(np.column_stack([ends, timed, first, at[ends - 1]]).astype(np.int32))
        return list(zip(vectors, spans, strict=True))


def _table(nodes: pl.DataFrame, states: np.ndarray, read: np.ndarray) -> pa.Table:
    tokens, timed, first, last = read.T
    columns = [
        nodes["node_id"].to_arrow(),
        nodes["subject_id"].to_arrow(),
        nodes["time"].to_arrow(),
        nodes["cohort"].to_arrow(),
        pa.FixedSizeListArray.from_arrays(pa.array(states.ravel()), states.shape[1]),
        pa.array(tokens),
        pa.array(timed),
        pa.array(first, mask=first < 0),
        pa.array(last),
    ]
    schema = embedding_schema(states.shape[1])
    arrays = [c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def embedding_schema(dimensions: int) -> pa.Schema:
    return pa.schema(
        [
            ("node_id", pa.string()),
            ("subject_id", pa.int64()),
            ("time", pa.timestamp("us")),
            ("cohort", pa.string()),
            ("embedding", pa.list_(pa.field("element", pa.float32()), dimensions)),
            ("tokens", pa.int32()),
            ("timed_tokens", pa.int32()),
            ("first_timed", pa.int32()),
            ("last", pa.int32()),
        ]
    )


def _processor(encoder: Encoder) -> str:
    if encoder.device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(encoder.device)
    return f"{encoder.device.type} {platform.machine()}"
