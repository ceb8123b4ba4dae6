"""Packed batches against padded ones, on the demo corpus: tokens per second, and how much is padding.

At paper size padding alone: 13 examples of up to 3,300 tokens, as a process of Table 7 takes at once.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.models.attention import ROUND
from ehr_assets.models.backbone import causal_lm
from ehr_assets.models.batch import Batch, sees_matrix
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.collate import collate
from ehr_assets.training.examples import Examples
from ehr_assets.training.recipe import load_recipe
from ehr_assets.training.recipe_parts import JepaSpec
from tests.benchmarks.measure import interleaved
from tests.benchmarks.steps import BOTH, world_model
from tests.benchmarks.world import World

SUBJECTS, STEPS, REPEATS = 200, 8, 5
PAPER_TOKENS, PAPER_EXAMPLES = 3300, 13


class Rows(WorldModel):
    """The same model over one row per example, padded to the longest: what most code does.

    Rows of [x, y] need no mask, since causal attention never looks at the padding behind; rows of [x, y, ỹ]
    have one, ``[examples, 1, length, length]``.
    """

    def encode(self, batch: Batch) -> Tensor:
        lm, lengths = causal_lm(self.backbone), batch.lengths
        embedded = self.vocabulary.embed(batch.token_ids)
        if batch.copied:
            embedded = torch.where(batch.hidden[:, None], self.mask_token, embedded)
        rows, positions = (
            pad_sequence(list(t.split(lengths)), batch_first=True) for t in (embedded, batch.position)
        )
        mask = None
        if batch.copied:
            mask = torch.eye(rows.shape[1], dtype=torch.bool).repeat(len(lengths), 1, 1, 1)
            for i, one in enumerate(_examples(batch)):
                mask[i, 0, : len(one), : len(one)] = sees_matrix(one)
        lm.set_attn_implementation("sdpa")
        states = lm.base_model(
            inputs_embeds=rows, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return torch.cat([row[:n] for row, n in zip(states, lengths, strict=True)])


def _examples(batch: Batch) -> list[Batch]:
    parts = zip(*(getattr(batch, n).split(batch.lengths) for n in _TENSORS), strict=True)
    return [Batch(*part, (s,), batch.copied) for part, s in zip(parts, batch.spans, strict=True)]


_TENSORS = ("token_ids", "position", "part", "example", "hidden")


def padding_of_rows(batches: Sequence[Batch]) -> float:
    return 1 - sum(sum(b.lengths) for b in batches) / sum(max(b.lengths) * len(b.lengths) for b in batches)


def padding_of(batches: Sequence[Batch]) -> float:
    return 1 - sum(sum(b.lengths) for b in batches) / sum(map(len, batches))


def batches_of(examples: Examples, batch: int, jepa: JepaSpec | None, multiple: int = 1) -> list[Batch]:
    return [
        collate([examples.example(which, jepa) for which in examples.step(s, batch)]).padded(multiple)
        for s in range(1, STEPS + 1)
    ]


def main(console: Console, folder: Path) -> None:
    recipe = load_recipe("smb_sft_demo")
    world = World(folder / "world", SUBJECTS)
    examples = Examples(TokenCorpus(world.corpus), "train", recipe.data, recipe.data.examples_per_subject)
    vocabulary = PieceTokenizer(world.tokenizer).size
    sizes = {**recipe.backbone.model_dump(exclude={"kind", "architecture", "seed"}), "vocab_size": vocabulary}
    packed = world_model(sizes, range(vocabulary))
    padded = Rows(packed.backbone, packed.objectives["jepa"].predictor)
    padded.mask_token = packed.mask_token
    title = f"Batches of {recipe.batch} examples of the demo corpus, on the demo model"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "padding: ours", "on a GPU", "reference", "tokens/s: ours", "reference", "ratio"):
        table.add_column(column, justify="right")
    for name, weights, jepa in (("sft", {"sft": 1.0}, None), ("sft + jepa", BOTH, recipe.jepa or JepaSpec())):
        batches = batches_of(examples, recipe.batch, jepa)
        rounded = batches_of(examples, recipe.batch, jepa, ROUND)
        tokens = sum(sum(b.lengths) for b in batches)

        def run(model: WorldModel, batches=batches, weights=weights) -> list[Tensor]:
            losses = []
            for batch in batches:
                target = torch.zeros(len(batch.unmasked()), model.hidden_size) if batch.copied else None
                loss = model(batch, weights, target).total
                loss.backward()
                losses.append(loss.detach())
            return losses

        def ours(run=run) -> list[Tensor]:
            causal_lm(packed.backbone).set_attn_implementation("ehr_segments")
            return run(packed)

        def reference(run=run) -> list[Tensor]:
            return run(padded)

        torch.testing.assert_close(ours(), reference(), rtol=1e-4, atol=1e-4)
        mine, theirs = interleaved(ours, reference, REPEATS)
        table.add_row(
            name,
            f"{padding_of(batches):.1%}",
            f"{padding_of(rounded):.1%}",
            f"{padding_of_rows(batches):.1%}",
            f"{tokens / mine:,.0f}",
            f"{tokens / theirs:,.0f}",
            f"{theirs / mine:.2f}",
        )
    console.print(table)
    longer = recipe.data.model_copy(update={"max_tokens": PAPER_TOKENS})
    examples = Examples(TokenCorpus(world.corpus), "train", longer, longer.examples_per_subject)
    found = (batches_of(examples, PAPER_EXAMPLES, jepa, ROUND) for jepa in (None, JepaSpec()))
    sft, both = (f"{padding_of(batches):.2%}" for batches in found)
    console.print(
        f"Padding on a GPU, {PAPER_EXAMPLES} examples of up to {PAPER_TOKENS:,} tokens of the same corpus: "
        f"{sft} (sft), {both} (sft + jepa)."
    )
    console.print(
        "reference: a row per example, padded to the longest of its batch; causal attention without a mask "
        "where there is no ỹ, else with one. The same losses; forward and backward, without target pass and "
        f"optimizer; tokens count ỹ. On a GPU batches are rounded up to {ROUND}.\n",
        style="dim",
        markup=False,
    )
