"""S(t) of every node: one pass per subject against one pass per snapshot, encoder and batching the same."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.embeddings.encoder import Encoder, workers
from ehr_assets.embeddings.extract import embed_nodes
from ehr_assets.embeddings.plan import Pass, batches, plan_passes, read_all_nodes
from ehr_assets.models.backbone import build_backbone, with_lora
from ehr_assets.training.checkpoint import save_backbone
from ehr_assets.training.recipe import load_recipe
from tests.benchmarks.measure import Row, interleaved, show
from tests.benchmarks.world import NAME, World

SIZES = (15, 30, 60)
BATCH_TOKENS = 8_192


def untrained_checkpoint(world: World) -> Path:
    out = world.root / "checkpoint"
    out.mkdir()
    recipe = load_recipe("smb_sft_demo")
    tokens = PieceTokenizer(world.tokenizer).size
    sizes = recipe.backbone.model_dump(exclude={"kind", "architecture"})
    backbone = build_backbone(vocab_size=tokens, **sizes)
    save_backbone(backbone, out)
    lora = recipe.adapter.model_dump(exclude={"kind", "trainable_tokens"})
    model = with_lora(backbone, **lora, trainable_tokens=range(tokens), base_name=str(out / "backbone"))
    model.save_pretrained(out)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(world.tokenizer / file, out)
    return out


def per_snapshot(checkpoint: Path, world: World, max_tokens: int) -> np.ndarray:
    """Every node's window through the encoder by itself, in batches of windows of like length."""
    encoder, corpus = Encoder(checkpoint, "auto"), TokenCorpus(world.corpus)
    nodes = read_all_nodes({NAME: world.nodes})
    times = nodes["time"].to_numpy().astype("datetime64[us]")
    windows = [
        Pass(p.cohort, p.subject_id, times[node], end, [node], [end])
        for p in plan_passes(corpus, nodes, max_tokens)
        for end, node in zip(p.ends, p.nodes, strict=True)
    ]
    windows.sort(key=lambda w: -w.length)  # as `batches` takes them, with little padding
    states = np.zeros((nodes.height, encoder.hidden_size), np.float32)
    groups = list(batches(windows, BATCH_TOKENS))

    def encode(batch: list[Pass]) -> list[np.ndarray]:
        return encoder.encode([w.tokens(corpus, max_tokens) for w in batch], [w.ends for w in batch], "last")

    with workers(encoder.device) as pool:
        for batch, found in zip(groups, pool.map(encode, groups), strict=True):
            for window, vectors in zip(batch, found, strict=True):
                states[window.nodes] = vectors
    return states


def main(console: Console, folder: Path) -> None:
    rows = []
    for subjects in SIZES:
        world = World(folder / str(subjects), subjects)
        checkpoint, out = untrained_checkpoint(world), folder / str(subjects) / "embeddings"
        out.mkdir()
        tokens = load_recipe("smb_sft_demo").embedding.max_tokens

        def ours(world=world, checkpoint=checkpoint, out=out, tokens=tokens) -> np.ndarray:
            embed_nodes(checkpoint, world.corpus, {NAME: world.nodes}, out, max_tokens=tokens)
            return pl.read_parquet(out / "embeddings.parquet")["embedding"].to_numpy()

        def reference(world=world, checkpoint=checkpoint, tokens=tokens) -> np.ndarray:
            return per_snapshot(checkpoint, world, tokens)

        np.testing.assert_allclose(ours(), reference(), rtol=1e-3, atol=1e-4)
        rows.append(Row(f"{subjects} subjects", len(ours()), *interleaved(ours, reference, repeats=3)))
    show(
        console,
        "Embeddings: S(t) of all decision nodes from one pass per subject",
        "one window per node through the same encoder, equally batched; the same vectors",
        "nodes",
        rows,
    )
