"""What the assets of a recipe are made for: itself, each of its seeds, or every point of a grid."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    StaticPartitionsDefinition,
)

from ehr_assets.lineage.hashing import settings_hash
from ehr_assets.training.grid import Grid
from ehr_assets.training.recipe import RecipeSpec

# Checks by partition are a preview in dagster 1.13, which is pinned; the tests of the grids run them.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec")

SETTINGS_KEY = "ehr/settings"
"""Metadata of a partitioned asset: partition → hash of the settings its dataset must have been made with.

Not part of the code version, which Dagster has of the asset as a whole: a new point would make all stale.
"""


@dataclass(frozen=True)
class Points:
    """A recipe, whose name heads the asset keys, and its partitions, if it has seeds or is a grid's.

    Attributes:
        recipe: what all partitions have in common: name, corpus, what is continued.
        by_partition: the recipe of each; None where there is but one.
    """

    recipe: RecipeSpec
    by_partition: Mapping[str, RecipeSpec] | None = None

    @classmethod
    def of(cls, what: RecipeSpec | Grid) -> "Points":
        if isinstance(what, Grid):
            return cls(what.base, what.recipes)
        return cls(what, what.by_seed() or None)

    @property
    def recipes(self) -> list[RecipeSpec]:
        """All that there are."""
        return [self.recipe] if self.by_partition is None else list(self.by_partition.values())

    @property
    def partitions(self) -> StaticPartitionsDefinition | None:
        return None if self.by_partition is None else StaticPartitionsDefinition(list(self.by_partition))

    def metadata(self, settings: Callable[[RecipeSpec], Mapping[str, Any]]) -> dict[str, Any]:
        """Of an asset whose `config` (`Datasets.materialize`) are these settings of its recipe."""
        if self.by_partition is None:
            return {}
        return {SETTINGS_KEY: {key: settings_hash(settings(r)) for key, r in self.by_partition.items()}}

    def scored_as(self, context: AssetExecutionContext) -> str:
        """The name in tables of scores: one for all seeds, which are one method tried several times."""
        return self.recipe.name if self.recipe.seeds else self.at(context).name

    def at(self, context: AssetExecutionContext | AssetCheckExecutionContext) -> RecipeSpec:
        """The recipe that a run of the asset, or of a check of it, is about."""
        return self.recipe if self.by_partition is None else self.by_partition[context.partition_key]
