"""A planted velocity: the trained S(t) tells where a subject is going, better than an untrained one does.

Every subject has a velocity of its own. Its events show a position on a ring, which moves by that velocity
from event to event and now and then jumps anywhere. No token and no count of tokens tells the velocity, only
which follows which; and the loss of the next token never asks for it by name.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from training_helpers import FIRST_WORD, MINUTE, recipe_data, write_records, write_tokenizer

from ehr_assets.models.backbone import hidden_states, load_backbone
from ehr_assets.training.checkpoint import load_checkpoint
from ehr_assets.training.recipe import RecipeSpec

pytestmark = pytest.mark.slow

SUBJECTS = {"train": 1200, "tuning": 100, "held_out": 300}
EVENTS, RING, VELOCITIES, JUMPS = 40, 12, (-1, 0, 1), 0.12
SEED = 1
MARGIN = 0.15
"""R² that the curriculum must add. On seeds 1 to 4 it added 0.44, 0.27, 0.25 and 0.37 (SFT alone 0.35, 0.25,
0.37 and 0.42); a training at a learning rate of 1e-6 adds nothing."""

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
DATA = {"max_tokens": 64, "min_context_tokens": 16, "continuation_fraction": [0.5, 0.7]}
RECIPE = {
    "backbone": {**recipe_data()["backbone"], **SIZES, "seed": SEED},
    "adapter": {"r": 32, "alpha": 64, "dropout": 0.0, "trainable_tokens": "all"},
    "data": {**DATA, "examples_per_subject": 2, "seed": SEED},
    "batch": 16,
    "optimizer": {"lr": 1e-2},
    "engine": {"micro_batch": 16, "attention": "dense"},
    "seed": SEED,
}
CURRICULUM = {
    "sft": {"phases": [{"name": "sft", "objectives": {"sft": 1.0}, "epochs": 1}]},
    "curriculum": {
        "continues": "sft",
        "phases": [{"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "epochs": 1}],
        "jepa": {"predictor": {"heads": 4}, "momentum": 0.99},
    },
}


def life(rng):
    """A velocity, and the columns of a record that moves by it."""
    velocity, position = int(rng.choice(VELOCITIES)), int(rng.integers(RING))
    words = []
    for _ in range(EVENTS):
        position = (position + velocity) % RING
        if rng.random() < JUMPS:
            position = int(rng.integers(RING))
        words.append(FIRST_WORD + position)
    start, day = np.datetime64("2020-01-01", "us"), 1440 * MINUTE
    return velocity, {
        "n_demographics": 4,
        "token_ids": [1, 2, 3, 4, *words],
        "event_index": [-1] * 4 + list(range(EVENTS)),
        "available": [None] * 4 + [start + (i + 1) * day for i in range(EVENTS)],
    }


def train(folder, name, settings, start):
    """The checkpoint of a recipe of the curriculum."""
    recipe = RecipeSpec.model_validate(recipe_data(name=name, **RECIPE, **settings))
    out = folder / name
    out.mkdir()
    job = {"recipe": recipe.model_dump(mode="json"), "out_dir": str(out), "start_from": start and str(start)}
    job |= {"token_corpus": str(folder / "corpus"), "tokenizer": str(folder / "tokenizer")}
    (folder / f"{name}.json").write_text(json.dumps(job))
    trained = subprocess.run(
        [sys.executable, "-m", "ehr_assets.training.process", str(folder / f"{name}.json")],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr
    return out


def readable(model, lives):
    """R² on held-out subjects of a ridge from S(t) at the record's end to the velocity.

    Its strength is chosen on the tuning subjects.
    """
    x, y = {}, {}
    with torch.no_grad():
        for split, some in lives.items():
            ids = torch.tensor([record["token_ids"] for _, record in some])
            x[split] = hidden_states(model.eval(), ids)[:, -1].double().numpy()
            y[split] = [velocity for velocity, _ in some]
    probes = [make_pipeline(StandardScaler(), Ridge(strength)) for strength in 10.0 ** np.arange(-1, 5)]
    best = max(
        (p.fit(x["train"], y["train"]) for p in probes), key=lambda p: p.score(x["tuning"], y["tuning"])
    )
    return best.score(x["held_out"], y["held_out"])


def test_the_velocity_is_read_off_better_after_the_curriculum_than_before_training(tmp_path):
    rng = np.random.default_rng(SEED)
    lives = {split: [life(rng) for _ in range(n)] for split, n in SUBJECTS.items()}
    write_records(tmp_path / "corpus", {k: [record for _, record in some] for k, some in lives.items()})
    write_tokenizer(tmp_path / "tokenizer")
    folder = None
    for name, settings in CURRICULUM.items():
        folder = train(tmp_path, name, settings, folder)
    before = readable(load_backbone(tmp_path / "sft" / "backbone"), lives)
    after = {name: readable(load_checkpoint(tmp_path / name)[0], lives) for name in CURRICULUM}
    print(f"R² of the velocity: untrained {before:.3f}, {after}")
    assert after["curriculum"] > before + MARGIN
