"""What a training begins with: examples and model, or the reason why it cannot begin."""

import pytest
import torch
from training_helpers import make_job
from transformers import AutoModelForCausalLM

from ehr_assets.errors import TrainingError
from ehr_assets.models.backbone import causal_lm
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.prepare import prepare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank")]

SUBJECTS = {"train": 12, "tuning": 3}
JEPA = {
    "jepa": {"predictor": {"heads": 2}},
    "phases": [{"name": "both", "objectives": {"sft": 1, "jepa": 1}, "steps": 4}],
}


def test_in_bf16_positions_are_as_when_it_is_read(tmp_path):
    """A rotary frequency that is rounded with the weights turns later tokens elsewhere."""
    job = make_job(tmp_path, SUBJECTS, engine={"micro_batch": 2, "precision": "bf16"})
    model = causal_lm(prepare(TrainingJob.model_validate(job), 0, 1).model.backbone)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    frequencies = {name: b for name, b in model.named_buffers() if "inv_freq" in name}
    plain = dict(AutoModelForCausalLM.from_config(model.config).named_buffers())
    assert frequencies
    for name, own in frequencies.items():
        assert torch.equal(own, plain[name]), name


@pytest.mark.parametrize("settings", [{"select": "best"}, JEPA])
def test_what_needs_tuning_records_is_refused_without_any(tmp_path, settings):
    job = make_job(tmp_path, {"train": 4}, **settings)
    with pytest.raises(TrainingError, match="No tuning record can be cut"):
        prepare(TrainingJob.model_validate(job), 0, 1)


def test_attention_by_segments_is_not_compiled(tmp_path):
    job = make_job(tmp_path, {"train": 4}, engine={"micro_batch": 2, "compile": True})
    with pytest.raises(TrainingError, match="compiled anew"):
        prepare(TrainingJob.model_validate(job), 0, 1)
