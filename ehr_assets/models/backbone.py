"""The language model that becomes a world model: built or loaded, given tokens, wrapped with LoRA.

Only networks here. Files are read by `load_backbone` through transformers alone; checkpoints are
`training/checkpoint.py`'s matter.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.peft_utils import find_adapter_config_file

from ehr_assets.errors import TrainingError
from ehr_assets.model_folders import load_tokenizer, refuse_code

BACKBONE = "backbone"
"""Beside an adapter: the folder of the model that it is an adapter of."""
NAMED_BACKBONE = "backbone.json"
"""Instead: which model it is, and the hash of its weights."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

transformers_logging.disable_progress_bar()  # the bars people watch are ours
# peft 0.21 asks transformers 5 for an attribute by its old name.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


def build_backbone(
    *,
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    intermediate_size: int,
    max_position_embeddings: int,
    seed: int,
) -> PreTrainedModel:
    """A Qwen3-architecture causal LM with random weights (fp32); equal arguments give equal weights.

    Input and output embeddings are tied, as in the small published Qwen3 models.
    """
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=hidden_size // num_attention_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to move
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def load_backbone(path: str | Path) -> PreTrainedModel:
    """A published causal LM, from a local folder or the hub: safetensors only, no remote code is run.

    Whole weights, or an adapter of peft's (a checkpoint of ours, say), which is merged into its own backbone:
    that in the folder `backbone` beside it, or else the one that it names.

    Raises:
        TrainingError: when it is not there, has no safetensors, or needs code of its own.
    """
    try:
        refuse_code(path)
        adapter = find_adapter_config_file(str(path))
        if adapter:
            return _merged(path, Path(adapter))
        return AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, dtype="auto", use_cache=False
        )
    except (OSError, ValueError) as e:
        raise TrainingError(
            f"The backbone cannot be loaded: {str(e).splitlines()[0]}",
            where=f"backbone.path: {path}",
            do="Give a folder (or a reachable hub name) with config.json and *.safetensors of a causal LM.",
        ) from e


def _merged(path: str | Path, adapter: Path) -> PreTrainedModel:
    if not Path(path).is_dir():  # peft would take a pickle where the hub has nothing else
        hf_hub_download(str(path), ADAPTER_WEIGHTS)
    base = load_base(adapter.parent)
    fit_vocabulary(base, len(load_tokenizer(path)))
    merged: Any = PeftModel.from_pretrained(base, str(path)).merge_and_unload()
    return merged


def load_base(folder: Path) -> PreTrainedModel:
    """What the adapter in a folder is of: the model in `backbone/` beside it, or the one that it names.

    Raises:
        TrainingError: as `load_backbone`, or `backbone.json` notes that the adapter was trained on others
            than the weights that are there now.
    """
    if (folder / BACKBONE).is_dir():
        return load_backbone(folder / BACKBONE)
    named = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    base, note = load_backbone(named), folder / NAMED_BACKBONE
    if note.is_file():
        noted = json.loads(note.read_text(encoding="utf-8"))
        if weights_sha256(base) != noted["weights_sha256"]:
            raise TrainingError(
                "The backbone is not the one that this checkpoint was trained on: its weights have changed.",
                where=f"backbone.path: {named}",
                do="Put the former weights there again, or train again on the new ones.",
            )
    return base


def weights_sha256(model: nn.Module) -> str:
    """Of all parameters by name: says whether two models are the same, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        digest.update(f"{name} {p.dtype} {tuple(p.shape)}\n".encode())
        digest.update(p.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fit_vocabulary(model: PreTrainedModel, vocab_size: int) -> None:
    """Grows the embeddings to hold `vocab_size` tokens; never shrinks them (hub models are padded).

    New rows are the mean of the old ones, so that a new token starts out unremarkable and the result does not
    depend on a random draw.
    """
    old = len(_token_matrices(model)[0])
    if vocab_size <= old:
        return
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    with torch.no_grad():
        for matrix in _token_matrices(model):
            matrix[old:] = matrix[:old].mean(dim=0)


def with_lora(
    model: PreTrainedModel,
    *,
    r: int,
    alpha: int,
    dropout: float,
    trainable_tokens: Sequence[int],
    base_name: str,
) -> PeftModel:
    """LoRA on all linear layers, and trained embeddings for the given token ids (SMB Table 7, §3.2).

    Args:
        trainable_tokens: ids whose embeddings are trained; with an untied output head, its rows as well (peft
            trains a tied head together with the embeddings by itself).
        base_name: what the saved adapter shall call its base model.
    """
    ids = sorted(trainable_tokens)
    tokens: Any = ids
    if ids and len(_token_matrices(model)) > 1:
        tokens = {_name_of(model, part): ids for part in (model.get_input_embeddings(), _head(model))}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        trainable_token_indices=tokens or None,
    )
    wrapped = get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = base_name  # type: ignore[union-attr]
    return wrapped  # type: ignore[return-value]


def hidden_states(model: nn.Module, input_ids: Tensor) -> Tensor:
    """The final layer's hidden states, after the last norm.

    Args:
        input_ids: ``[batch, tokens]``, padded on the right: causal attention never looks there, so no mask is
            needed, and attention may use its fastest kernel.

    Returns:
        ``[batch, tokens, hidden]``. Position i has seen tokens 0..i only; the last real one is S(t).
    """
    decoder: Any = causal_lm(model).base_model
    return decoder(input_ids=input_ids, use_cache=False).last_hidden_state


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its parameters in that type. Not its buffers: a rounded rotary frequency places the
    tokens of a long record radians off."""
    for p in model.parameters():  # tied ones come once
        p.data = p.data.to(dtype)
    return model


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The causal LM itself, without what peft wraps around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def _head(model: PreTrainedModel) -> nn.Module:
    return model.get_output_embeddings()  # type: ignore[return-value]


def _token_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """The embedding matrix, and the output head's when it is another one."""
    embedding, head = model.get_input_embeddings().weight, _head(model).weight
    return [embedding] if embedding is head else [embedding, head]  # type: ignore[list-item]


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module is wanted)
