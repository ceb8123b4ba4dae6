"""One training, whatever the machine: ZeRO stages, processes, checkpointed activations."""

import json
import math
from pathlib import Path

import pytest
from forked_ranks import files_of, forked
from safetensors.torch import load
from training_helpers import make_job

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_cpu")]

SUBJECTS = {"train": 10, "tuning": 5}  # tuning: three batches on one of two processes, two on the other
PHASES = [
    {"name": "sft", "objectives": {"sft": 1.0}, "steps": 3, "trains": ["backbone", "tokens"]},
    {"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 4},
    {"name": "tail", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 2, "trains": ["predictor", "tokens"]},
]
WEIGHTS = "adapter_model.safetensors"


def trained(folder: Path, world: int = 1, **engine) -> tuple[list[dict], dict[str, bytes]]:
    """History and files of a training without dropout, which differs between processes."""
    job = make_job(
        folder,
        SUBJECTS,
        phases=PHASES,
        jepa={"predictor": {"heads": 2}, "momentum": 0.9},
        adapter={"r": 4, "dropout": 0.0, "trainable_tokens": "all"},
        optimizer={"lr": 1e-3},
        engine={"micro_batch": 1, **engine},
    )
    assert forked(job, world) == [0] * world
    files = files_of(job)
    return [json.loads(line) for line in files["history.jsonl"].splitlines()], files


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[list[dict], dict[str, bytes]]:
    return trained(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    ("world", "engine"),
    [
        (2, {}),
        (1, {"zero_stage": 2}),
        (2, {"zero_stage": 2}),
        (1, {"zero_stage": 3}),
        (2, {"zero_stage": 3}),
        (1, {"gradient_checkpointing": True}),
        (2, {"zero_stage": 3, "gradient_checkpointing": True}),
        (1, {"micro_batch": 4}),
    ],
)
def test_losses_and_weights_do_not_depend_on_the_engine(tmp_path, alone, world, engine):
    rows, files = trained(tmp_path, world, **engine)
    for a, b in zip(alone[0], rows, strict=True):
        assert flat(b) == pytest.approx(flat(a), rel=1e-3)
    assert files.keys() - {n for n in files if n.startswith("resume/")} == alone[1].keys() - {
        n for n in alone[1] if n.startswith("resume/")
    }
    mine, theirs = load(files[WEIGHTS]), load(alone[1][WEIGHTS])
    for name, weight in theirs.items():
        assert (mine[name] - weight).norm() <= 1e-3 * max(weight.norm(), 1.0), name
    if world == 1 and engine == {"gradient_checkpointing": True}:
        assert rows == alone[0]


@pytest.mark.parametrize(("world", "stage"), [(1, 1), (2, 1), (1, 2), (1, 3)])
def test_in_bf16_losses_and_gradients_are_those_of_float32_but_for_rounding(tmp_path, alone, world, stage):
    rows, _ = trained(tmp_path, world, precision="bf16", zero_stage=stage)
    for a, b in zip(alone[0], rows, strict=True):
        assert b["losses"] == pytest.approx(a["losses"], rel=0.02)
        if "grad_norm" in a:  # over four micro-batches
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=0.1)
    assert rows != alone[0]


def flat(row: dict) -> dict[str, float]:
    """The figures of a line of the history. Adam makes much of tiny differences: only what is smooth."""
    found = {k: row[k] for k in ("loss", "tuning_loss", "grad_norm") if k in row}
    found |= row["losses"]
    target = row.get("target", {})
    assert all(map(math.isfinite, [*found.values(), *target.values()]))
    return found | {k: target[k] for k in ("effective_rank", "cosine") if k in target}
