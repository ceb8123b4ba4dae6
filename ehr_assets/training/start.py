"""What a process needs before its first step: the other processes, and the model."""

import datetime
import os
import socket
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from ehr_assets.errors import TrainingError
from ehr_assets.model_folders import load_tokenizer as tokenizer_in
from ehr_assets.models.attention import use_attention
from ehr_assets.models.backbone import causal_lm, in_dtype
from ehr_assets.models.predictor import build_predictor
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.backbones import prepare_backbone
from ehr_assets.training.checkpoint import load_predictor
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.lean_deepspeed import import_deepspeed
from ehr_assets.training.recipe import RecipeSpec

deepspeed = import_deepspeed()


def join_ranks(timeout_minutes: float = 10) -> tuple[int, int]:
    """(rank, number of ranks), once all have met. Started by hand, this process is the only rank.

    Args:
        timeout_minutes: how long to wait for the others, now and in every exchange.
    """
    if "RANK" not in os.environ:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    patience = datetime.timedelta(minutes=timeout_minutes)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(backend, verbose=False, timeout=patience)
    return dist.get_rank(), dist.get_world_size()


def wait_at_most(minutes: float) -> None:
    """Bounds the exchanges of all groups of processes that there are by now, DeepSpeed's own among them:
    torch gives every new group its default instead."""
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(datetime.timedelta(minutes=minutes), group)


def load_tokenizer(folder: str) -> Any:
    try:
        return tokenizer_in(folder)
    except (OSError, ValueError) as e:
        raise TrainingError(
            "The tokenizer cannot be loaded.", where=folder, do="Materialize the corpus's tokenizer again."
        ) from e


def prepare_model(job: TrainingJob, tokenizer: Any, save_to: Path | None) -> WorldModel:
    """The world model on this process's device, in the precision that it trains in.

    Weights that are drawn (a backbone's, an adapter's, a predictor's) follow from the recipe's seeds.
    """
    recipe = job.recipe
    backbone = prepare_backbone(job, tokenizer, save_to)
    base = causal_lm(backbone)
    use_attention(base, attention_kind(recipe))
    if recipe.engine.gradient_checkpointing:
        # ZeRO-3 has let go of a layer's parameters when the other kind compares what it computes again.
        base.gradient_checkpointing_enable({"use_reentrant": recipe.engine.zero_stage == 3})
        base.enable_input_require_grads()
    if recipe.engine.compile:
        if attention_kind(recipe) == "segments":
            raise TrainingError(
                "Attention by segments cannot be compiled: every batch would be compiled anew.",
                where="engine.compile, engine.attention",
                do="Take engine.compile out, or train on a GPU, where attention is FlexAttention.",
            )
        decoder: Any = base.base_model
        for layer in decoder.layers:  # one after another: all are one piece of code, compiled once
            layer.compile()
    predictor = None
    if recipe.jepa:
        spec, hidden = recipe.jepa.predictor, base.config.hidden_size
        predictor = build_predictor(spec.kind, hidden, spec.size_inside(hidden), spec.layers, spec.heads)
    model = WorldModel(backbone, predictor)
    if job.start_from:
        load_predictor(Path(job.start_from), model)
    in_dtype(model, torch.bfloat16 if bf16(recipe) else torch.float32)
    return model.to(device())


def attention_kind(recipe: RecipeSpec) -> str:
    """One of `models.attention.KINDS`."""
    kind = recipe.engine.attention
    return ("flex" if torch.cuda.is_available() else "segments") if kind == "auto" else kind


def bf16(recipe: RecipeSpec) -> bool:
    """Whether to train in bf16: as the recipe says, `auto` being a GPU that has it."""
    if recipe.engine.precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return recipe.engine.precision == "bf16"


def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
