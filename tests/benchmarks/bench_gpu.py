"""The 1.7B-shaped LoRA step of SFT + JEPA on a GPU: tokens per second and MFU, bf16, FlexAttention."""

import statistics
import time
from pathlib import Path

import torch
from rich.console import Console

from ehr_assets.models.backbone import causal_lm, in_dtype
from ehr_assets.models.batch import Batch
from ehr_assets.models.target import TargetEncoder
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.estimate import example_flops, peak_flops, shape_of
from ehr_assets.training.recipe import SHARED, load_recipe
from tests.benchmarks.steps import BOTH, PAPER_RECIPES, QWEN3_1B7, made_up_batch, world_model

TOKENS, CONTINUATION, DELIMITERS = 3300, 0.25, range(1, 17)
EXAMPLES = (1, 4, 8)
WARM, MEASURED = 3, 10


class Step:
    """What an optimizer step does, without DeepSpeed: target pass, online pass, backward, AdamW, average."""

    def __init__(self, model: WorldModel, batch: Batch) -> None:
        trained = list(model.trainable().values())
        self.model, self.batch = model, batch
        self.target = TargetEncoder(model.backbone, model.trained_encoder(), 0.996)
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def __call__(self) -> float:
        with self.target.in_place():
            states = self.model.encode(self.batch.unmasked())
        loss = self.model(self.batch, BOTH, states).total / len(self.batch.spans)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.target.update()
        return loss.item()


def seconds(step: Step) -> float:
    """The median of a step; torch.cuda has finished when it returns, since the loss is read."""
    times = []
    for i in range(WARM + MEASURED):
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if i >= WARM:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def needed_flops() -> float:
    """Of an example, by the formula of a training's own MFU: causal attention by the pairs that see each
    other, and nothing that is computed twice (logits, checkpointed layers)."""
    recipe = load_recipe(
        PAPER_RECIPES / "smb_hybrid_qwen3_1b7.yaml", search=[PAPER_RECIPES / "shared", SHARED]
    )
    shape = shape_of({**QWEN3_1B7, "model_type": "qwen3", "tie_word_embeddings": True})
    assert shape
    m = round(TOKENS * CONTINUATION)
    return example_flops(recipe, recipe.phases[0], shape, TOKENS - m, m)


def main(console: Console, folder: Path) -> None:
    console.print("GPU: the 1.7B-shaped step of SFT + JEPA, LoRA r 64, bf16, FlexAttention")
    if not torch.cuda.is_available():
        console.print("not run: there is no GPU here\n", style="dim")
        return
    name = torch.cuda.get_device_name()
    peak = peak_flops(name)
    for checkpointing in (False, True):
        for n in EXAMPLES:
            how = f"{n} x {TOKENS:,} tokens, {'with' if checkpointing else 'without'} gradient checkpointing"
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                model = in_dtype(world_model(QWEN3_1B7, DELIMITERS, attention="flex"), torch.bfloat16).cuda()
                if checkpointing:
                    causal_lm(model.backbone).gradient_checkpointing_enable({"use_reentrant": False})
                batch = made_up_batch(n, TOKENS, CONTINUATION, QWEN3_1B7["vocab_size"])
                took = seconds(Step(model, batch.to("cuda")))
            except torch.OutOfMemoryError:
                console.print(f"  {how}: out of memory")
                continue
            finally:
                model = None
            work = n * needed_flops()
            mfu = f"MFU {work / took / peak:.1%}" if peak else "MFU unknown for this device"
            memory = torch.cuda.max_memory_allocated() / 2**30
            console.print(
                f"  {how}: {took * 1e3:,.0f} ms, {n * TOKENS / took:,.0f} tokens/s (without ỹ), {mfu}, "
                f"{memory:.1f} GiB on {name}"
            )
    console.print()
