"""A small cohort with a corpus and a random checkpoint on it, for the tests of embeddings."""

from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from corpora_support import T0, random_rows, write_meds, write_nodes

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.embeddings.extract import embed_nodes
from ehr_assets.embeddings.recompute import recompute_sample
from ehr_assets.embeddings.windows import Windows

ROWS = {
    "train": random_rows(range(1, 6), 1),
    "tuning": random_rows(range(11, 13), 2),
    "held_out": random_rows(range(21, 24), 3),
}
MAX_TOKENS = 64


def nodes_of_rows() -> list[tuple[int, datetime]]:
    """Nodes at instants of each record, before its first event, and long after its last."""
    nodes = []
    for rows in ROWS.values():
        for s in sorted({r[0] for r in rows}):
            times = sorted({r[5] for r in rows if r[0] == s and r[5] is not None and r[5] > T0})
            chosen = [times[0] - timedelta(days=400), *times[::3], times[-1] + timedelta(days=50)]
            nodes += [(s, t) for t in chosen]
    return nodes


def write_checkpoint(folder, tokenizer_dir):
    """A random tiny Qwen3 with a random (not zero) LoRA adapter, in the layout of a checkpoint."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    base = Qwen3ForCausalLM(config)
    base.save_pretrained(folder / "backbone")
    lora = LoraConfig(
        r=4, target_modules="all-linear", trainable_token_indices=[3, 4, 5], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "token_adapter" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make(root, spec):
    meds, splits = write_meds(root, ROWS)
    for name in ("tokenizer", "corpus", "checkpoint", "embeddings"):
        (root / name).mkdir()
    train_tokenizer(spec, {"here": meds}, {"here": splits}, root / "tokenizer")
    write_corpus(spec, {"here": meds}, root / "tokenizer", root / "corpus")
    write_checkpoint(root / "checkpoint", root / "tokenizer")
    nodes = write_nodes(root / "nodes", nodes_of_rows())
    stats = embed(root, nodes, root / "embeddings")
    return SimpleNamespace(spec=spec, root=root, meds=meds, nodes=nodes, stats=stats)


def embed(root, nodes, out, *, source=None, **options):
    settings = {"max_tokens": MAX_TOKENS, "batch_tokens": 256, "device": "cpu", **options}
    return embed_nodes(source or root / "checkpoint", root / "corpus", {"here": nodes}, out, **settings)


def recomputed(made, embeddings_dir=None, sample=1000, *, source=None, **options) -> float:
    return recompute_sample(
        made.spec,
        source or made.root / "checkpoint",
        made.root / "tokenizer",
        {"here": made.meds},
        {"here": made.nodes},
        embeddings_dir or made.root / "embeddings",
        **{"max_tokens": MAX_TOKENS, "sample": sample, "device": "cpu", **options},
    )


def states(folder) -> np.ndarray:
    return pl.DataFrame(pq.read_table(folder / "embeddings.parquet"))["embedding"].to_numpy()


def one_by_one(made, pooling: str, max_tokens: int = MAX_TOKENS, anchor: float = 0.0) -> np.ndarray:
    """Each node by itself, through peft's own forward and `output_hidden_states`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(made.root / "checkpoint/backbone", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, made.root / "checkpoint").eval()
    corpus, found = TokenCorpus(made.root / "corpus"), []
    for s, t in sorted(nodes_of_rows()):
        record = corpus.find("here", s)
        ids = torch.tensor(record.token_ids[Windows(max_tokens, anchor).at(record, t)][None].astype(np.int64))
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        found.append((hidden[-1] if pooling == "last" else hidden.mean(0)).numpy())
    return np.stack(found)
