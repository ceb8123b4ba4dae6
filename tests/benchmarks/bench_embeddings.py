"""S(t) of every node: one pass for all nodes that can share it against one pass per node.

Encoder, windows, batching and threads are the same, and so are the vectors. What sharing can spare follows
from where the nodes stand: a pass costs its longest window, the reference the sum of all. So beside the times
stands the ratio in tokens, by nodes per subject (what one pass each could spare) and by nodes per pass.
Time is that of all CPU threads together, which a busy machine does not stretch; on a GPU, wall time.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch
from rich.console import Console

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.embeddings.encoder import Encoder, workers
from ehr_assets.embeddings.extract import embed_nodes
from ehr_assets.embeddings.plan import Pass, batches, plan_passes, read_all_nodes
from ehr_assets.embeddings.tasks import BATCH_TOKENS
from ehr_assets.embeddings.untrained import Untrained
from ehr_assets.embeddings.windows import Windows
from ehr_assets.training.recipe import load_recipe
from tests.benchmarks.measure import Row, interleaved, show
from tests.benchmarks.world import World

SUBJECTS = (10, 40, 160)
PAPER = 3_300
"""SMB-Structure's context, in tokens."""


class Built:
    """The untrained demo model for a world, built once: neither way is timed with it."""

    def __init__(self, world: World) -> None:
        self.model = Untrained(load_recipe("smb_sft_demo"), world.tokenizer).load()

    def load(self) -> Any:
        return self.model


@dataclass(frozen=True)
class Case:
    """Nodes of a world, and how they are embedded."""

    world: World
    nodes: Path
    windows: Windows
    source: Built

    def shared(self, out: Path) -> np.ndarray:
        out.mkdir(exist_ok=True)
        embed_nodes(
            self.source,
            self.world.corpus,
            {self.world.name: self.nodes},
            out,
            max_tokens=self.windows.max_tokens,
            anchor=self.windows.anchor,
        )
        return pl.read_parquet(out / "embeddings.parquet")["embedding"].to_numpy()

    def one_by_one(self) -> np.ndarray:
        """Every node's window through the encoder by itself, in batches of windows of like length."""
        encoder, corpus = Encoder(self.source), TokenCorpus(self.world.corpus)
        nodes = read_all_nodes({self.world.name: self.nodes})
        times = nodes["time"].to_numpy().astype("datetime64[us]")
        alone = [
            Pass(p.cohort, p.subject_id, times[node], end, [node], [end])
            for p in plan_passes(corpus, nodes, self.windows)
            for end, node in zip(p.ends, p.nodes, strict=True)
        ]
        alone.sort(key=lambda w: -w.length)  # as `batches` takes them, with little padding
        states = np.zeros((nodes.height, encoder.hidden_size), np.float32)
        groups = list(batches(alone, BATCH_TOKENS[encoder.device.type]))

        def encode(batch: list[Pass]) -> list[np.ndarray]:
            read = [item.read(corpus, self.windows) for item in batch]
            return encoder.encode([r.token_ids[at] for r, at in read], [item.ends for item in batch], "last")

        with workers(encoder.device) as pool:
            for batch, found in zip(groups, pool.map(encode, groups), strict=True):
                for item, vectors in zip(batch, found, strict=True):
                    states[item.nodes] = vectors
        return states

    def measured(self, label: str, out: Path, repeats: int) -> Row:
        found: dict[str, np.ndarray] = {}
        times = interleaved(
            lambda: found.update(shared=self.shared(out)),
            lambda: found.update(alone=self.one_by_one()),
            repeats,
            clock=time.perf_counter if torch.cuda.is_available() else time.process_time,
        )
        np.testing.assert_allclose(found["shared"], found["alone"], rtol=1e-3, atol=1e-4)
        return Row(label, len(found["alone"]), *times)

    def spared(self, label: str, row: Row | None = None) -> str:
        """What sharing spares, in tokens and, where it was measured, in time, by what it could."""
        nodes = read_all_nodes({self.world.name: self.nodes})
        passes = plan_passes(TokenCorpus(self.world.corpus), nodes, self.windows)
        per_subject, per_pass = nodes.height / nodes["subject_id"].n_unique(), nodes.height / len(passes)

        def by(what: str, ratio: float) -> str:
            return (
                f"; {what} 1/{ratio:.2f} = {ratio / per_subject:.2f} x nodes per subject, "
                f"{ratio / per_pass:.2f} x per pass"
            )

        tokens = by("tokens", sum(sum(p.ends) for p in passes) / sum(p.length for p in passes))
        seconds = by("time", row.reference / row.ours) if row else ""
        return f"{label}: {per_subject:.2f} nodes per subject, {per_pass:.2f} per pass{tokens}{seconds}"


def nodes_in_icu(world: World, hours: int, out: Path) -> Path:
    """Nodes every so many hours of a stay in intensive care, from the first day's end on."""
    out.mkdir()
    events = pl.read_parquet(world.meds / "data" / "**" / "*.parquet").select("subject_id", "time", "code")
    begun = events.filter(pl.col("code") == "VISIT/ICU").select("subject_id", begin="time")
    ended = events.filter(pl.col("code") == "VISIT/ICU/END").select("subject_id", end="time")
    nodes = (
        begun.sort("begin")
        .join_asof(
            ended.sort("end"),
            left_on="begin",
            right_on="end",
            by="subject_id",
            strategy="forward",
            check_sortedness=False,
        )
        .drop_nulls()
        .with_columns(time=pl.datetime_ranges(pl.col("begin").dt.offset_by("24h"), "end", f"{hours}h"))
        .explode("time", empty_as_null=True)
        .drop_nulls("time")
        .unique(["subject_id", "time"])
        .sort("subject_id", "time")
        .with_row_index("node_id")
        .select(pl.col("node_id").cast(pl.String), "subject_id", pl.col("time").cast(pl.Datetime("us")))
    )
    pq.write_table(nodes.to_arrow(), out / "nodes.parquet")
    return out


def main(console: Console, folder: Path) -> None:
    def table(title: str, timed: Mapping[str, tuple[Case, int]], untimed: Mapping[str, Case]) -> None:
        """timed: with how often each is repeated."""
        rows = {label: case.measured(label, folder / "out", n) for label, (case, n) in timed.items()}
        reference = "one window per node, same encoder, equally batched, same vectors; CPU seconds"
        show(console, title, reference, "nodes", list(rows.values()))
        for label, row in rows.items():
            console.print(timed[label][0].spared(label, row), style="dim", soft_wrap=True)
        for label, case in untimed.items():
            console.print(case.spared(label), style="dim", soft_wrap=True)
        console.print()

    worlds = [World(folder / str(n), n) for n in SUBJECTS]
    models = [Built(world) for world in worlds]
    table(
        f"Embeddings: oncology, windows of {PAPER:,} tokens, which records fit",
        {
            f"{world.subjects} subjects": (Case(world, world.nodes, Windows(PAPER), model), repeats)
            for world, model, repeats in zip(worlds, models, (5, 3, 1), strict=True)
        },
        {},
    )
    world, model = worlds[1], models[1]
    demo = {a: Case(world, world.nodes, Windows(512, a), model) for a in (0.0, 0.25, 0.5)}
    table(
        "Embeddings: oncology, the demo's windows of 512 tokens, which records do not fit",
        {f"anchor {a}": (demo[a], 3) for a in (0.0, 0.25)},
        {"anchor 0.5": demo[0.5]},
    )
    icu = World(folder / "icu", 4, name="synthetic_icu")
    often, model = nodes_in_icu(icu, 4, folder / "icu" / "every_4h"), Built(icu)
    stays = {a: Case(icu, often, Windows(PAPER, a), model) for a in (0.0, 0.25, 0.5)}
    table(
        f"Embeddings: intensive care, a node every 4 h, windows of {PAPER:,} tokens; records are far longer",
        {"anchor 0.25": (stays[0.25], 1)},
        {f"anchor {a}": stays[a] for a in (0.0, 0.5)},
    )
