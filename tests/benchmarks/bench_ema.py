"""Memory of the target encoder: the average of what is trained against a second model. Counted, not timed."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ehr_assets.models.target import TargetEncoder
from ehr_assets.training.recipe import load_recipe
from tests.benchmarks.steps import QWEN3_1B7, world_model

QWEN3_8B = {
    **QWEN3_1B7,
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "intermediate_size": 12288,
}
"""Its output head is not tied: the second copy counted below lacks that."""


def main(console: Console, folder: Path) -> None:
    recipe = load_recipe("smb_sft_demo")
    demo = {**recipe.backbone.model_dump(exclude={"kind", "architecture", "seed"}), "vocab_size": 2048}
    table = Table(title="Target encoder: memory", title_justify="left", box=None, pad_edge=False)
    for column in ("backbone", "averaged", "ours, float32", "copy, bfloat16", "copy / ours", "copy, float32"):
        table.add_column(column, justify="right")
    for name, sizes, tokens in (
        ("demo", demo, range(2048)),
        ("1.7B", QWEN3_1B7, range(1, 17)),
        ("8B", QWEN3_8B, range(1, 17)),
    ):
        with torch.device("meta"):
            model = world_model(sizes, tokens)
            target = TargetEncoder(model.backbone, model.trained_encoder(), 0.996)
        averaged = sum(p.numel() for p in model.trained_encoder().values())
        whole = sum(p.numel() for p in model.backbone.parameters())
        table.add_row(
            name,
            f"{averaged / 1e6:,.1f} M of {whole / 1e6:,.0f} M",
            f"{target.bytes / 2**20:,.0f} MiB",
            f"{2 * whole / 2**20:,.0f} MiB",
            f"{2 * whole / target.bytes:.1f}",
            f"{4 * whole / 2**20:,.0f} MiB",
        )
    console.print(table)
    console.print(
        "reference: a copy of the whole encoder with its adapters. In bfloat16 an average stands still: its "
        "increments of 1 - 0.996 are rounded away, so an honest copy is in float32.\n",
        style="dim",
        markup=False,
    )
