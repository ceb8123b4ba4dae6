"""The fused step against the literal two passes: counted FLOPs at paper size, measured time at demo size."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ehr_assets.models.target import TargetEncoder
from ehr_assets.training.recipe import load_recipe
from tests.benchmarks.measure import interleaved
from tests.benchmarks.steps import QWEN3_1B7, Steps, counted, made_up_batch, world_model

CONTINUATIONS = (0.1, 0.25, 0.5)
EXAMPLES, VOCABULARY, REPEATS = 4, 2048, 5


def main(console: Console, folder: Path) -> None:
    recipe = load_recipe("smb_sft_demo")
    demo = {**recipe.backbone.model_dump(exclude={"kind", "architecture", "seed"}), "vocab_size": VOCABULARY}
    table = Table(title="A step of SFT + JEPA: fused", title_justify="left", box=None, pad_edge=False)
    for column in ("continuation", "size, tokens", "ours", "reference", "ratio"):
        table.add_column(column, justify="right")
    for name, sizes, n, tokens in (
        ("1.7B, 3300", QWEN3_1B7, 1, 3300),
        ("demo, 4 x 512", demo, EXAMPLES, recipe.data.max_tokens),
    ):
        for continuation in CONTINUATIONS:
            ours, reference = counted(sizes, n, tokens, continuation)
            shown = (f"{continuation:.0%}", name, f"{ours:.3g} FLOPs", f"{reference:.3g} FLOPs")
            table.add_row(*shown, f"{reference / ours:.2f}")
    model = world_model(demo, range(VOCABULARY))
    target = TargetEncoder(model.backbone, model.trained_encoder(), 0.996)
    for continuation in CONTINUATIONS:
        batch = made_up_batch(EXAMPLES, recipe.data.max_tokens, continuation, VOCABULARY)
        steps = Steps(model, target, batch)
        torch.testing.assert_close(steps.fused(), steps.literal(), rtol=1e-4, atol=1e-5)
        ours, reference = interleaved(steps.fused, steps.literal, REPEATS)
        shown = (f"{continuation:.0%}", "demo, measured", f"{ours:.3f} s", f"{reference:.3f} s")
        table.add_row(*shown, f"{reference / ours:.2f}")
    console.print(table)
    console.print(
        "reference: a pass over [x, y], one over [x, ỹ], the target's over [x, y]; the same batch without "
        "padding, PyTorch's causal attention; forward and backward, no optimizer. Medians of "
        f"{REPEATS} interleaved runs on {torch.get_num_threads()} thread(s).\n",
        style="dim",
        markup=False,
    )
