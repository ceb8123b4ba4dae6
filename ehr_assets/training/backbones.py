"""The backbone that a training begins with, and what is trained of it.

It is continued from a checkpoint, built from a configuration, or loaded; then it gets an adapter, or all of
it is trained.
"""

from pathlib import Path
from typing import Any

from peft import PeftModel

from ehr_assets.corpora.phrases import TAGS
from ehr_assets.errors import TrainingError
from ehr_assets.model_folders import load_tokenizer
from ehr_assets.models.backbone import (
    BACKBONE,
    build_backbone,
    causal_lm,
    fit_vocabulary,
    load_backbone,
    with_lora,
)
from ehr_assets.training.checkpoint import (
    keep_backbone,
    load_checkpoint,
    name_backbone,
    save_backbone,
)
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ConfigBackbone, LoraSpec, PretrainedBackbone
from ehr_assets.training.suitable import unsuitable


def prepare_backbone(job: TrainingJob, tokenizer: Any, save_to: Path | None) -> Any:
    """A causal LM of transformers, wrapped by peft where the recipe's adapter is LoRA.

    Args:
        tokenizer: the corpus'.
        save_to: where a frozen backbone is kept, or noted; None for nowhere.

    Raises:
        TrainingError: it cannot be had, does not go with the corpus or the recipe, or cannot be trained here.
    """
    recipe, adapter = job.recipe, job.recipe.adapter
    if job.start_from:
        model = _continued(recipe, Path(job.start_from), tokenizer)
        if save_to:
            keep_backbone(Path(job.start_from), save_to)
    else:
        model = new_backbone(recipe, tokenizer, save_to if isinstance(adapter, LoraSpec) else None)
        if isinstance(adapter, LoraSpec):
            spec = recipe.backbone
            delimiters = tokenizer.convert_tokens_to_ids(list(TAGS))
            model = with_lora(
                model,
                r=adapter.r,
                alpha=adapter.alpha,
                dropout=adapter.dropout,
                trainable_tokens=range(len(tokenizer)) if adapter.trainable_tokens == "all" else delimiters,
                base_name=BACKBONE if isinstance(spec, ConfigBackbone) else spec.path,
            )
    return model if isinstance(adapter, LoraSpec) else model.requires_grad_(True)


def new_backbone(recipe: RecipeSpec, tokenizer: Any, save_to: Path | None = None) -> Any:
    """A recipe's backbone before any training, its vocabulary grown to the tokenizer's; as `prepare_backbone`
    otherwise."""
    spec = recipe.backbone
    if isinstance(spec, ConfigBackbone):
        sizes = spec.model_dump(exclude={"kind", "architecture"})
        model = build_backbone(vocab_size=len(tokenizer), **sizes)
        if save_to:
            save_backbone(model, save_to)
        return model
    model = load_backbone(spec.path)
    _refuse_unsuitable(model, spec, recipe.data.max_tokens)
    _refuse_another_tokenizer(spec, tokenizer)
    if save_to:
        name_backbone(model, spec.path, save_to)
    fit_vocabulary(model, len(tokenizer))
    return model


def _continued(recipe: RecipeSpec, folder: Path, tokenizer: Any) -> Any:
    model, known = load_checkpoint(folder, trainable=True)
    adapter = recipe.adapter
    if isinstance(model, PeftModel):
        was: Any = model.peft_config["default"]
        same = isinstance(adapter, LoraSpec) and (was.r, was.lora_alpha) == (adapter.r, adapter.alpha)
    else:
        same = not isinstance(adapter, LoraSpec)
    if not same or known.get_vocab() != tokenizer.get_vocab():
        raise TrainingError(
            f"This recipe cannot continue '{recipe.continues}': its tokenizer or adapter differs.",
            where="continues",
            do="Give both recipes the same corpus and adapter (kind, r and alpha).",
        )
    _refuse_unsuitable(causal_lm(model), recipe.backbone, recipe.data.max_tokens)
    return model


def _refuse_unsuitable(model: Any, spec: ConfigBackbone | PretrainedBackbone, max_tokens: int) -> None:
    problems = unsuitable(model.config.to_dict(), max_tokens)
    if not type(model)._supports_attention_backend:
        problems.append("transformers does not let its attention be replaced")
    if problems:
        raise TrainingError(
            f"This backbone cannot be trained with this recipe: {'; '.join(problems)}.",
            where=f"backbone.path: {spec.path}" if isinstance(spec, PretrainedBackbone) else "backbone",
            do="Take a causal LM with plain full attention (Llama, Qwen), or lower data.max_tokens to what "
            "it can see.",
        )


def _refuse_another_tokenizer(spec: PretrainedBackbone, tokenizer: Any) -> None:
    """Its embeddings mean what its own tokenizer says; the corpus may add the delimiters, nothing else."""
    where = f"backbone.path: {spec.path}"
    own, corpus = _vocabulary_in(spec.path), tokenizer.get_vocab()
    if not own:
        raise TrainingError(
            "The backbone has no tokenizer, so nobody can tell whether the corpus speaks its language.",
            where=where,
            do="Put the tokenizer that it was trained with into its folder.",
        )
    differ = sum(corpus.get(token) != i for token, i in own.items())
    added = len(corpus.keys() - own.keys() - set(TAGS))
    if differ or added:
        raise TrainingError(
            f"The corpus was not tokenized with the backbone's tokenizer: {differ} of its {len(own)} tokens "
            f"are missing or numbered otherwise, and {added} are new beside the delimiters.",
            where=where,
            do=f"Give the corpus `tokenizer: {{kind: folder, path: {spec.path}}}`, or take another backbone.",
        )


def _vocabulary_in(path: str) -> dict[str, int]:
    """Token → id; empty where there is no tokenizer (transformers then makes one of special tokens alone)."""
    try:
        own: Any = load_tokenizer(path)
    except (OSError, ValueError):
        return {}
    vocabulary = own.get_vocab()
    return vocabulary if vocabulary.keys() - set(own.all_special_tokens) else {}
