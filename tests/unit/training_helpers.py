"""A made-up token corpus and tokenizer, for the tests of models, training and the launcher."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import AddedToken, Tokenizer, models

from ehr_assets.corpora.phrases import TAGS
from ehr_assets.corpora.shards import SCHEMA
from ehr_assets.training.recipe import RecipeSpec

VOCABULARY = 48
FIRST_WORD = 17  # <pad>, then the sixteen tags, then words
MINUTE = np.timedelta64(60, "s").astype("timedelta64[us]")


def write_tokenizer(folder: Path) -> Path:
    """A word-level tokenizer: <pad>, the sixteen tags, w17 .. w47."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {"<pad>": 0, **{f"w{i}": i for i in range(FIRST_WORD, VOCABULARY)}}
    words |= {tag: 1 + i for i, tag in enumerate(TAGS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<pad>", *TAGS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "fitted_on.json").write_text("{}")
    return folder


def record_columns(rng: np.random.Generator, n_events: int, n_demographics: int = 4) -> dict[str, Any]:
    """One subject's columns: a demographics block, then blocks <tag> events </tag>, as corpora/serialize.py
    lays them out. Words count upwards, so that there is something to learn."""
    ids, event, available = list(range(1, 1 + n_demographics)), [-1] * n_demographics, [None] * n_demographics
    word, now, i = int(rng.integers(VOCABULARY)), np.datetime64("2020-01-01", "us"), 0
    while i < n_events:
        now = now + MINUTE * int(rng.integers(1, 5000))
        block = min(n_events - i, int(rng.integers(1, 4)))
        tag = int(rng.integers(1, 9))
        new_ids, new_event = [tag], [-1]
        for _ in range(block):
            length = int(rng.integers(1, 5))
            new_ids += [FIRST_WORD + (word + j) % (VOCABULARY - FIRST_WORD) for j in range(length)]
            new_event += [i] * length
            word, i = word + length, i + 1
        ids += [*new_ids, tag + 8]
        event += [*new_event, -1]
        available += [now] * (len(new_ids) + 1)
    return {"n_demographics": n_demographics, "token_ids": ids, "event_index": event, "available": available}


def write_corpus(folder: Path, subjects: dict[str, int], n_events: int = 40, seed: int = 0) -> Path:
    """A corpus of `subjects` per split; subject ids count on from 1."""
    rng = np.random.default_rng(seed)
    records = {
        split: [record_columns(rng, n_events) for _ in range(subjects.get(split, 0))]
        for split in ("train", "tuning", "held_out")
    }
    return write_records(folder, records)


def write_records(folder: Path, records: dict[str, list[dict[str, Any]]]) -> Path:
    """A corpus of these records (as `record_columns` gives them) per split; subject ids count on from 1."""
    subject = 0
    for split, columns in records.items():
        rows = []
        for c in columns:
            subject += 1
            times = [None if t is None else t.astype("datetime64[us]").item() for t in c["available"]]
            row = {"cohort": "made_up", "subject_id": subject, "n_demographics": c["n_demographics"]}
            row |= {"token_ids": c["token_ids"], "token_time": times, "token_available_time": times}
            rows.append({**row, "event_index": c["event_index"]})
        (folder / split).mkdir(parents=True)
        with (
            pa.OSFile(str(folder / split / "00000.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as out,
        ):
            out.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    (folder / "statistics.json").write_text(json.dumps({"vocabulary": VOCABULARY}))
    return folder


def recipe_data(**changes: Any) -> dict[str, Any]:
    """A recipe of seconds, as plain data."""
    backbone = {"kind": "config", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone |= {"num_key_value_heads": 1, "intermediate_size": 64, "max_position_embeddings": 128, "seed": 3}
    return {
        "name": "made_up",
        "title": "Made up",
        "corpus": "made_up",
        "backbone": backbone,
        "adapter": {"r": 8, "alpha": 16, "dropout": 0.1, "trainable_tokens": "all"},
        "data": {"max_tokens": 64, "examples_per_subject": 2, "min_context_tokens": 16},
        "phases": [{"name": "sft", "objectives": {"sft": 1.0}, "epochs": 2}],
        "batch": 4,
        "optimizer": {"lr": 1e-2},
        "engine": {"micro_batch": 4},
        "embedding": {"max_tokens": 64},
        **changes,
    }


def make_job(folder: Path, subjects: dict[str, int], **changes: Any) -> dict[str, Any]:
    """A job dict over a fresh corpus and tokenizer in `folder`; its out_dir is `folder`/out."""
    out = folder / "out"
    out.mkdir(parents=True)
    recipe = RecipeSpec.model_validate(recipe_data(**changes))
    return {
        "recipe": recipe.model_dump(mode="json"),
        "token_corpus": str(write_corpus(folder / "corpus", subjects)),
        "tokenizer": str(write_tokenizer(folder / "tokenizer")),
        "out_dir": str(out),
        "facts": {"made by": "a test"},
    }
