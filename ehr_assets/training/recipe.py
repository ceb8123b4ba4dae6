"""Recipes: what is trained, on which corpus, from which backbone, in which phases. Data, not code.

A recipe is one YAML file. This module only reads and validates it (pydantic and yaml), so that definitions
load fast and a mistake is found then, not after an hour of training. What the values do is said where they
are used: `training/examples.py` (data), `models/backbone.py` (backbone, adapter), `training/process.py`
(phases), `training/start.py` (optimizer, engine).
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ehr_assets.specs import Spec, closest, find_spec, layered, parse_spec, read_extended

RECIPES = Path(__file__).parent / "recipes"

OBJECTIVES = ("sft",)
"""Names a phase may use. `models/objectives.py` holds the classes; a test keeps the two equal."""

NOT_TRAINING = ("title", "embedding", "probe")
"""Keys that a checkpoint does not depend on: changing one must not retrain."""

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class ConfigBackbone(Spec):
    """A causal LM built from these sizes with weights drawn from `seed`."""

    kind: Literal["config"]
    architecture: Literal["qwen3"] = "qwen3"
    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    intermediate_size: Positive
    max_position_embeddings: Positive = 4096
    seed: int = 1

    @model_validator(mode="after")
    def _shapes_fit(self) -> "ConfigBackbone":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("hidden_size / num_attention_heads must be even (rotary positions turn pairs)")
        return self


class PretrainedBackbone(Spec):
    """A causal LM that transformers loads: a local folder or a hub name, safetensors only."""

    kind: Literal["pretrained"]
    path: str = Field(min_length=1)


Backbone = Annotated[ConfigBackbone | PretrainedBackbone, Field(discriminator="kind")]


class AdapterSpec(Spec):
    """LoRA on every linear layer; `trainable_tokens` says whose embeddings are trained beside it.

    `delimiters`: the section tags alone (they are new to a pretrained backbone). `all`: every token.
    """

    r: Positive = 64
    alpha: Positive = 128
    dropout: float = Field(default=0.1, ge=0, lt=1)
    trainable_tokens: Literal["all", "delimiters"] = "delimiters"


class DataSpec(Spec):
    """How a subject's record is cut into context x and continuation y (`training/examples.py`)."""

    max_tokens: int = Field(default=3300, ge=8)
    examples_per_subject: Positive = 4
    min_context_tokens: Positive = 32
    continuation_fraction: tuple[Fraction, Fraction] = (0.1, 0.5)
    seed: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _x_and_y_fit(self) -> "DataSpec":
        low, high = self.continuation_fraction
        if low > high:
            raise ValueError("continuation_fraction must be [low, high] with low <= high")
        if self.min_context_tokens + high * self.max_tokens > self.max_tokens:
            raise ValueError(
                "min_context_tokens plus the longest continuation (continuation_fraction[1] x max_tokens) "
                "does not fit into max_tokens"
            )
        return self


class PhaseSpec(Spec):
    """One stretch of training: its objectives with their weights, and how long it lasts."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    objectives: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    epochs: Positive | None = None
    steps: Positive | None = None

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in OBJECTIVES:
                known = ", ".join(OBJECTIVES)
                raise ValueError(
                    f"unknown objective '{name}' (there are: {known}).{closest(name, OBJECTIVES)}"
                )
        if not any(value.values()):
            raise ValueError("all weights are zero: nothing would be trained")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> "PhaseSpec":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        return self

    def length(self, examples: int, examples_per_step: int) -> int:
        """Optimizer steps of this phase, when an epoch has so many examples."""
        return self.steps or (self.epochs or 0) * max(1, math.ceil(examples / examples_per_step))


class OptimizerSpec(Spec):
    """AdamW with a cosine schedule per phase (SMB Table 7: betas 0.9, 0.95; decay 0.1; 3 % warmup)."""

    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0)
    warmup_fraction: float = Field(default=0.03, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)


class EngineSpec(Spec):
    """DeepSpeed's settings. `precision: auto` is bf16 on a GPU that has it, fp32 otherwise."""

    num_processes: Positive = 1
    zero_stage: Literal[1] = 1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    micro_batch: Positive = 8
    gradient_accumulation: Positive = 1

    @property
    def examples_per_step(self) -> int:
        """Over all processes."""
        return self.micro_batch * self.num_processes * self.gradient_accumulation


class EmbeddingSpec(Spec):
    """How S(t) is read from the frozen model."""

    max_tokens: Positive = 1024
    pooling: Literal["last"] = "last"


class ProbeSpec(Spec):
    """How the probes on S(t) are scored."""

    bootstrap: Positive = 200
    min_positives: Positive = 5


class RecipeSpec(Spec):
    """A whole recipe, with `extends` already resolved."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    extends: None = Field(default=None, description="merged away by load_recipe")
    corpus: str = Field(min_length=1)
    continues: str | None = None
    backbone: Backbone
    adapter: AdapterSpec = AdapterSpec()
    data: DataSpec = DataSpec()
    phases: tuple[PhaseSpec, ...] = Field(min_length=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    engine: EngineSpec = EngineSpec()
    seed: int = Field(default=1, ge=0)
    embedding: EmbeddingSpec = EmbeddingSpec()
    probe: ProbeSpec = ProbeSpec()

    @model_validator(mode="after")
    def _possible(self) -> "RecipeSpec":
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("phases: two phases have the same name")
        if self.continues == self.name:
            raise ValueError("continues: a recipe cannot continue itself")
        if isinstance(self.backbone, ConfigBackbone):
            if self.adapter.trainable_tokens != "all":
                raise ValueError(
                    "adapter.trainable_tokens: a backbone built from a configuration has random token "
                    "embeddings; they must be trained, so set 'all'"
                )
            for key, length in (("data", self.data.max_tokens), ("embedding", self.embedding.max_tokens)):
                if length > self.backbone.max_position_embeddings:
                    raise ValueError(
                        f"{key}.max_tokens ({length}) is longer than backbone.max_position_embeddings "
                        f"({self.backbone.max_position_embeddings})"
                    )
        return self

    def training_settings(self) -> dict[str, Any]:
        """The keys that the checkpoint depends on, as plain data (written beside the weights, and hashed)."""
        return self.model_dump(mode="json", exclude=set(NOT_TRAINING))

    def training_hash(self) -> str:
        """Hash of `training_settings`: equal when a checkpoint need not be trained again."""
        return self.config_hash(*(set(type(self).model_fields) - set(NOT_TRAINING)))


def load_recipe(
    path: str | Path, overrides: Mapping[str, Any] | None = None, search: Iterable[Path] = (RECIPES,)
) -> RecipeSpec:
    """Reads a recipe, merges what it `extends`, applies dotted `overrides`, validates.

    Args:
        path: a YAML file, or a recipe's name to be found in `search`.
        overrides: e.g. ``{"engine.num_processes": 2}``; they win over every file.
        search: folders in which the names given in `extends` are looked up, after the recipe's own folder.

    Raises:
        SpecError: naming the file, the key and the reason.
    """
    folders = [Path(folder) for folder in search]
    named = not str(path).endswith((".yaml", ".yml"))
    file = find_spec(str(path), folders, what="recipe") if named else Path(path)
    merged = read_extended(file, folders, what="recipe", layer=layered)
    return parse_spec(RecipeSpec, merged, str(file), overrides)
