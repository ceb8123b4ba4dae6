"""Recipes: what is trained, on which corpus, from which backbone, in which phases. Data, not code.

A recipe is one YAML file. This module only reads and validates it (pydantic and yaml), so that definitions
load fast and a mistake is found then, not after an hour of training. Its sections are `recipe_parts.py`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ehr_assets.probes.spec import ProbeSpec
from ehr_assets.specs import Spec, find_spec, layered, parse_spec, read_extended
from ehr_assets.training.recipe_parts import (
    Adapter,
    Backbone,
    ConfigBackbone,
    DataSpec,
    EmbeddingSpec,
    EngineSpec,
    FullSpec,
    JepaSpec,
    LoraSpec,
    OptimizerSpec,
    PhaseSpec,
    Positive,
    ScheduleSpec,
    Trainable,
    TuningSpec,
)

RECIPES = Path(__file__).parent / "recipes"
SHARED = RECIPES / "shared"
"""What recipes extend that is no recipe itself."""

NAME = r"^[a-z][a-z0-9_]*$"
"""What a recipe's name looks like: it heads asset keys, folders and models."""

NOT_TRAINING = ("title", "seeds", "embedding", "probe", "engine")
"""Keys that a checkpoint does not depend on: changing one must not retrain."""


class RecipeSpec(Spec):
    """A whole recipe, with `extends` already resolved.

    `batch`: examples of one optimizer step, on all processes together. `jepa`: needed where a phase weighs
    that objective. `select`: whether the checkpoint is the model after the last step, or the one with the
    best tuning loss among those of the last phase. `seeds`: train it once with each instead of with `seed`.
    """

    name: str = Field(pattern=NAME)
    title: str
    extends: None = Field(default=None, description="merged away by load_recipe")
    corpus: str = Field(min_length=1)
    continues: str | None = None
    backbone: Backbone
    adapter: Adapter = LoraSpec()
    data: DataSpec = DataSpec()
    jepa: JepaSpec | None = None
    phases: tuple[PhaseSpec, ...] = Field(min_length=1)
    batch: Positive = 8
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    tuning: TuningSpec = TuningSpec()
    select: Literal["last", "best"] = "last"
    engine: EngineSpec = EngineSpec()
    seed: int = Field(default=1, ge=0)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=2)
    embedding: EmbeddingSpec = EmbeddingSpec()
    probe: ProbeSpec = ProbeSpec()

    @field_validator("adapter", mode="before")
    @classmethod
    def _lora_by_default(cls, value: Any) -> Any:
        return {"kind": "lora", **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _possible(self) -> "RecipeSpec":
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("phases: two phases have the same name")
        if self.continues == self.name:
            raise ValueError("continues: a recipe cannot continue itself")
        if isinstance(self.backbone, ConfigBackbone):
            if isinstance(self.adapter, LoraSpec) and self.adapter.trainable_tokens != "all":
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
        try:
            self.engine.shared(self.batch, self.engine.num_processes)
        except ValueError as e:
            raise ValueError(f"engine.num_processes: {e}") from None
        return self

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seeds and len(set(seeds)) < len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds

    @model_validator(mode="after")
    def _jepa_is_told(self) -> "RecipeSpec":
        weighed = any("jepa" in phase.weighed for phase in self.phases)
        if weighed and self.jepa is None:
            raise ValueError("jepa: a phase weighs this objective, so the recipe must say how it masks")
        if self.jepa and not weighed:
            raise ValueError("jepa: no phase weighs this objective; take the section out (`jepa: null`)")
        if self.jepa and isinstance(self.backbone, ConfigBackbone):
            self.jepa.predictor.size_inside(self.backbone.hidden_size)
        return self

    @model_validator(mode="after")
    def _what_trains_is_there(self) -> "RecipeSpec":
        for i, phase in enumerate(self.phases):
            for part in phase.trains or ():
                if part not in self.trainable:
                    raise ValueError(f"phases.{i}.trains: there is no '{part}' in this recipe")
            if "predictor" in (phase.trains or ()) and "jepa" not in phase.weighed:
                raise ValueError(f"phases.{i}.trains: without jepa the predictor learns nothing")
        return self

    @property
    def trainable(self) -> tuple[Trainable, ...]:
        """The parts that a phase can train. Under full fine-tuning the backbone includes the tokens."""
        tokens: tuple[Trainable, ...] = () if isinstance(self.adapter, FullSpec) else ("tokens",)
        return ("backbone", *tokens, *(("predictor",) if self.jepa else ()))

    def trained_in(self, phase: PhaseSpec) -> tuple[Trainable, ...]:
        """The parts that a phase trains. Without JEPA the predictor has no gradient; weight decay alone would
        shrink it."""
        return phase.trains or tuple(p for p in self.trainable if p != "predictor" or "jepa" in phase.weighed)

    def by_seed(self) -> dict[str, "RecipeSpec"]:
        """One recipe for each of `seeds`, by its partition: all that is drawn follows from its seed, the
        weights of a backbone that is built too."""
        return {f"seed{seed}": self._at_seed(seed) for seed in self.seeds or ()}

    def _at_seed(self, seed: int) -> "RecipeSpec":
        own: dict[str, Any] = {"name": f"{self.name}_seed{seed}", "title": f"{self.title}, seed {seed}"}
        if isinstance(self.backbone, ConfigBackbone):
            own["backbone"] = self.backbone.model_copy(update={"seed": seed})
        return self.model_copy(update={**own, "seed": seed, "seeds": None})

    def schedule_of(self, phase: PhaseSpec) -> ScheduleSpec:
        return phase.schedule or self.schedule

    def training_settings(self) -> dict[str, Any]:
        """The keys that the checkpoint depends on, as plain data (written beside the weights, and hashed)."""
        settings = self.model_dump(mode="json", exclude=set(NOT_TRAINING))
        return {**settings, "precision": self.engine.precision}

    def training_hash(self) -> str:
        """Hash of `training_settings`: equal when a checkpoint need not be trained again."""
        return hashlib.sha256(json.dumps(self.training_settings(), sort_keys=True).encode()).hexdigest()


def load_recipe(
    path: str | Path, overrides: Mapping[str, Any] | None = None, search: Iterable[Path] = (RECIPES, SHARED)
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
