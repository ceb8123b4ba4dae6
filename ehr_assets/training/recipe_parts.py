"""The sections of a recipe: backbone, adapter, data, objectives, phases, optimizer, engine.

Only what is true of a section by itself is checked here; what sections must be to one another, in
`recipe.py`. What the values do is said where they are used: `training/cutting.py` (data), `models/`
(backbone, adapter, JEPA), `training/loop.py` (phases), `training/engine.py` (optimizer, engine).
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ehr_assets.paths import model_source
from ehr_assets.specs import Spec, closest

OBJECTIVES = ("sft", "jepa")
"""Names a phase may use. `models/objectives.py` holds the classes; a test keeps the two equal."""

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Trainable = Literal["backbone", "tokens", "predictor"]


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
    """A causal LM that transformers loads: a local folder or a hub name, safetensors only.

    `licence`: its licence as the model card shall name it; without it, what the folder's own card says.
    """

    kind: Literal["pretrained"]
    path: Annotated[str, Field(min_length=1), AfterValidator(model_source)]
    licence: str | None = None


Backbone = Annotated[ConfigBackbone | PretrainedBackbone, Field(discriminator="kind")]


class LoraSpec(Spec):
    """LoRA on every linear layer; `trainable_tokens` says whose embeddings are trained beside it.

    `delimiters`: the section tags alone (they are new to a pretrained backbone). `all`: every token.
    """

    kind: Literal["lora"] = "lora"
    r: Positive = 64
    alpha: Positive = 128
    dropout: float = Field(default=0.1, ge=0, lt=1)
    trainable_tokens: Literal["all", "delimiters"] = "delimiters"


class FullSpec(Spec):
    """Every weight of the backbone is trained; there is no adapter."""

    kind: Literal["full"]


Adapter = Annotated[LoraSpec | FullSpec, Field(discriminator="kind")]


class PredictorSpec(Spec):
    """The bottleneck predictor (SMB eq 2, 3; Table 7). `width` is the bottleneck's size by the backbone's."""

    kind: Literal["transformer", "mlp"] = "transformer"
    layers: Positive = 2
    width: float = Field(default=1.0, gt=0)
    heads: Positive = 8

    def size_inside(self, hidden_size: int) -> int:
        """Of the bottleneck, for a backbone of this size. ValueError where its heads cannot share it."""
        size = round(self.width * hidden_size)
        if size < 1 or (self.kind == "transformer" and size % self.heads):
            raise ValueError(f"jepa.predictor: {self.heads} heads cannot share a bottleneck of {size}")
        return size


class JepaSpec(Spec):
    """What JEPA hides of the continuation, and from what it learns (SMB §3.3.2, Table 7).

    `mask_ratio`: r_m, of the continuation's tokens. `mask_unit`: whether tokens are hidden one by one or by
    whole events. `momentum`: τ of the target encoder's moving average.
    """

    mask_ratio: float = Field(default=0.5, gt=0, le=1)
    mask_unit: Literal["token", "event"] = "token"
    momentum: float = Field(default=0.996, ge=0, lt=1)
    predictor: PredictorSpec = PredictorSpec()


class CutsSpec(Spec):
    """Where records are cut into context and continuation: shares of decision nodes and event boundaries.

    A subject without a usable node is cut at event boundaries.
    """

    nodes: Share = 0.0
    boundaries: Share = 1.0

    @model_validator(mode="after")
    def _whole(self) -> "CutsSpec":
        if not math.isclose(self.nodes + self.boundaries, 1.0):
            raise ValueError("nodes and boundaries are shares: together they must be 1")
        return self


class DataSpec(Spec):
    """How a subject's record is cut into context x and continuation y (`training/cutting.py`)."""

    max_tokens: int = Field(default=3300, ge=8)
    examples_per_subject: Positive = 4
    min_context_tokens: Positive = 32
    continuation_fraction: tuple[Fraction, Fraction] = (0.1, 0.5)
    cuts: CutsSpec = CutsSpec()
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


class ScheduleSpec(Spec):
    """The learning rate over a phase: linear warmup, then a cosine to zero, or constant (SMB Table 7).

    `lr_scale` multiplies the optimizer's `lr` in this phase.
    """

    kind: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.03, ge=0, lt=1)
    lr_scale: float = Field(default=1.0, gt=0)


class PhaseSpec(Spec):
    """One stretch of training: its objectives with their weights, what trains, and how long it lasts.

    `trains`: parts that take part; all that there are by default. `schedule`: instead of the recipe's.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    objectives: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    epochs: Positive | None = None
    steps: Positive | None = None
    trains: tuple[Trainable, ...] | None = Field(default=None, min_length=1)
    schedule: ScheduleSpec | None = None

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

    @property
    def weighed(self) -> tuple[str, ...]:
        """The objectives whose weight is not zero."""
        return tuple(name for name, weight in self.objectives.items() if weight > 0)

    def length(self, examples: int, batch: int) -> int:
        """Optimizer steps of this phase, when an epoch has so many examples."""
        return self.steps or (self.epochs or 0) * max(1, math.ceil(examples / batch))


class OptimizerSpec(Spec):
    """AdamW (SMB Table 7: betas 0.9, 0.95; weight decay 0.1). `clip`: the largest gradient norm."""

    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)


class TuningSpec(Spec):
    """When the tuning loss is taken, besides the end of each phase, and of how many examples at most.

    One of a subject, the same ones every time.
    """

    passes_per_epoch: Positive = 4
    examples: Positive = 1000

    def due(self, i: int, steps_per_epoch: int) -> bool:
        """Whether after step i, from 1."""
        passes = self.passes_per_epoch
        return i * passes // steps_per_epoch > (i - 1) * passes // steps_per_epoch


class KeepSpec(Spec):
    """Resume points: one every so many steps, and how many of the last are kept.

    `in_checkpoint_gb`: a finished training's last one goes into its checkpoint, unless it is larger.
    """

    every: Positive = 200
    last: Positive = 2
    in_checkpoint_gb: float = Field(default=4, ge=0)


class EngineSpec(Spec):
    """DeepSpeed's settings: on which machine and how, not what is learnt. None is part of the training hash.

    `num_processes`: on all hosts together. `micro_batch`: examples a process takes at once, at most.
    `precision: auto` is bf16 on a GPU that has it, fp32 otherwise. `attention: auto` is FlexAttention on a
    GPU; on a CPU each example by itself. `timeout_minutes`: how long a process waits for the others.
    """

    num_processes: Positive = 1
    zero_stage: Literal[1, 2, 3] = 1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    micro_batch: Positive = 8
    gradient_checkpointing: bool = False
    compile: bool = False
    attention: Literal["auto", "flex", "segments", "dense"] = "auto"
    timeout_minutes: float = Field(default=10, gt=0)
    keep: KeepSpec = KeepSpec()

    def shared(self, batch: int, processes: int) -> tuple[int, int]:
        """(examples per micro-batch, micro-batches per step) of a process, for a step of `batch` examples.

        Raises:
            ValueError: the processes cannot share the batch equally.
        """
        if batch % processes:
            raise ValueError(f"batch ({batch}) is not a multiple of the {processes} processes")
        own = batch // processes
        micro = next(n for n in range(min(self.micro_batch, own), 0, -1) if own % n == 0)
        return micro, own // micro


class EmbeddingSpec(Spec):
    """How S(t) is read from the frozen model (`embeddings/`).

    `max_tokens`: of a window, at most. `pooling`: the last token's state (SMB §4.3), or the mean over the
    window. `dtype: auto` is bfloat16 on a GPU that has it, float32 otherwise. `anchor`: windows of records
    that do not fit begin on a grid of this share of `max_tokens`, so that neighbouring nodes share a pass and
    see up to so much less; 0 is the most recent tokens that fit. `shard_subjects`: subjects that are encoded
    and kept at a time. `control`: whether the same nodes are also embedded by the backbone before training.
    """

    max_tokens: int = Field(default=1024, ge=2)
    pooling: Literal["last", "mean"] = "last"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    anchor: float = Field(default=0.0, ge=0, le=0.5)
    shard_subjects: Positive = 2048
    control: bool = False

    def settings(self) -> dict[str, Any]:
        """What the states depend on."""
        return self.model_dump(mode="json", exclude={"control"})
