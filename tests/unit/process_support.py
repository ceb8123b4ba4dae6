"""A training of one rank in this process, and what it left behind."""

import json
from pathlib import Path

import pytest
import torch

from ehr_assets.training import process
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.sinks import Log
from ehr_assets.training.watch import Watch

SUBJECTS = {"train": 12, "tuning": 3}
IDS = torch.arange(1, 41).unsqueeze(0)


def phase(steps: int) -> dict:
    return {"name": "sft", "objectives": {"sft": 1.0}, "steps": steps}


def train(job: dict, **changes) -> tuple[Path, torch.Tensor]:
    """Trains and returns the checkpoint and the logits that the model in memory had at the end."""
    parsed = TrainingJob.model_validate({**job, **changes})
    out, logits = Path(parsed.out_dir), []
    save = process.save_checkpoint

    def save_and_look(folder, model, *rest, **more):
        model.eval()
        with torch.no_grad():
            logits.append(model.backbone(IDS).logits)
        save(folder, model, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "save_checkpoint", save_and_look)
        parsed.work.mkdir(parents=True, exist_ok=True)
        process.run(parsed, 0, 1, Watch(parsed.work, Log(None), None, 10, True))
    return out, logits[0]


def history(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
