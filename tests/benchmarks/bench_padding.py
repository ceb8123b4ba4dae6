"""How much of a training batch is padding: counted, not timed."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.training import examples as module
from ehr_assets.training.examples import FIRST_EPOCH, Examples
from ehr_assets.training.recipe import load_recipe
from tests.benchmarks.world import World

SIZES = (100, 200, 400)


def padding(examples: Examples, size: int, pool_steps: int) -> float:
    """The share of padding in an epoch's batches when lengths are sorted in pools of so many steps."""
    before, module.POOL_STEPS = module.POOL_STEPS, pool_steps
    try:
        lengths = [[len(e.token_ids) for e in step.examples] for step in examples.steps(FIRST_EPOCH, size)]
    finally:
        module.POOL_STEPS = before
    return 1 - sum(map(sum, lengths)) / sum(max(step) * len(step) for step in lengths)


def main(console: Console, folder: Path) -> None:
    recipe = load_recipe("smb_sft_demo")
    size = recipe.engine.examples_per_step
    table = Table(title=f"Padding in batches of {size}", title_justify="left", box=None, pad_edge=False)
    for column in ("size", "tokens", "ours", "reference", "forward passes shortened by"):
        table.add_column(column, justify="right")
    for subjects in SIZES:
        world = World(folder / str(subjects), subjects)
        examples = Examples(TokenCorpus(world.corpus), "train", recipe.data, recipe.data.examples_per_subject)
        tokens = sum(step.tokens for step in examples.steps(FIRST_EPOCH, size))
        ours, plain = padding(examples, size, module.POOL_STEPS), padding(examples, size, 1)
        saved = 1 - (1 - plain) / (1 - ours)
        table.add_row(f"{subjects} subjects", f"{tokens:,}", f"{ours:.1%}", f"{plain:.1%}", f"{saved:.1%}")
    console.print(table)
    console.print("reference: the same shuffled examples, batched as they come\n", style="dim")
    assert np.isfinite(saved)
