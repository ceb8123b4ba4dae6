"""The datasets behind a page, and the tables read from them: scores, their means, their differences.

The one place of this room that knows file names. Every number comes with the assets that it was read from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ehr_assets.lineage.names import dataset_name
from ehr_assets.reports.spec import ReportSpec

ORACLE, BASELINE = "oracle", "baseline"
"""The `recipe` column of what no recipe has a part in."""

USUAL_PROBES = ("logistic", "cox", "ridge")
"""Of a recipe: one for each kind of task, so that the recipe's name is enough to tell the method."""


@dataclass(frozen=True)
class CohortInputs:
    """Where a cohort's datasets lie. `oracle` only exists for simulated cohorts, `audit` where guards have
    looked.
    """

    name: str
    title: str
    meds: Path
    nodes: Path
    labels: Path
    splits: Path
    baseline: Path
    oracle: Path | None = None
    audit: Path | None = None


@dataclass(frozen=True)
class RunInputs:
    """Where the datasets of one training run lie. partition: null, or that of the seed."""

    checkpoint: Path
    metrics: Path
    embeddings: Path | None = None
    audit: Path | None = None
    partition: str | None = None


@dataclass(frozen=True)
class RecipeInputs:
    """A recipe's runs, one per seed, and its settings as plain data (shown as they are)."""

    name: str
    title: str
    settings: Mapping[str, Any]
    runs: Sequence[RunInputs]

    def assets(self, asset: str) -> list[str]:
        """This asset's dataset of every run, by name."""
        return [dataset_name(f"{self.name}/{asset}", run.partition) for run in self.runs]


@dataclass(frozen=True)
class Inputs:
    """All of a page. versions: asset → data version, of everything that is read.

    `comparison` and `verdict` are null while they have not been made; sections that need them say so.
    """

    spec: ReportSpec
    cohorts: Sequence[CohortInputs]
    recipes: Sequence[RecipeInputs]
    versions: Mapping[str, str]
    comparison: Path | None = None
    verdict: Path | None = None
    _read: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False)

    def sources(self, *assets: str) -> list[str]:
        """Each asset with the data version it was read in: `asset@0123abcd`."""
        return [f"{asset}@{self.versions[asset][:8]}" for asset in assets]

    def of_cohort(self, cohort: str, *assets: str) -> list[str]:
        return self.sources(*(f"{cohort}/{asset}" for asset in assets))

    @property
    def candidate(self) -> RecipeInputs:
        """The recipe that the verdict is about."""
        return next(r for r in self.recipes if r.name == self.spec.candidate)

    @property
    def compared(self) -> list[str]:
        """The source of what is read from the comparison."""
        return self.sources(f"{self.spec.name}/comparison")

    def scored_from(self, cohort: CohortInputs) -> list[str]:
        """The sources of `scores`."""
        if self.comparison:
            return self.compared
        assets = [name for r in self.recipes for name in r.assets("probe_metrics")]
        assets.append(f"{cohort.name}/baseline_metrics")
        return self.sources(*assets, *([f"{cohort.name}/oracle_metrics"] if cohort.oracle else []))

    def scores(self, cohort: CohortInputs) -> pl.DataFrame:
        """METRICS_SCHEMA on held-out subjects of all subgroups together, one row per method, task,
        indication and metric (the mean where there are several seeds), with the `key` of the method.

        Of the comparison where there is one: it scores all methods with the same 1,000 resamples.
        """
        if self.comparison:
            table = self.table("metrics")
        else:
            folders = [run.metrics for r in self.recipes for run in r.runs] + [cohort.baseline]
            folders += [cohort.oracle] if cohort.oracle else []
            table = pl.concat([pl.read_parquet(f / "metrics.parquet") for f in folders])
        table = table.filter(
            pl.col("cohort") == cohort.name, pl.col("subgroup").is_null(), pl.col("split") == "held_out"
        )
        return _one_per_seed(self.keyed(table))

    def table(self, name: str) -> pl.DataFrame:
        """A table of the comparison; empty without columns where it has none of that name."""
        if name not in self._read:
            path = self.comparison / f"{name}.parquet" if self.comparison else None
            self._read[name] = pl.read_parquet(path) if path and path.is_file() else pl.DataFrame()
        return self._read[name]

    def compared_on(self, name: str, cohort: str) -> pl.DataFrame:
        """The rows of one cohort of a table of the comparison, keyed if it has methods; empty if there are
        none.
        """
        table = self.table(name)
        if not table.width:
            return table
        table = table.filter(pl.col("cohort") == cohort)
        return self.keyed(table) if "recipe" in table.columns else table

    def keyed(self, table: pl.DataFrame, recipe: str = "recipe", probe: str = "probe", key: str = "key"):
        """With the key of the method that each row belongs to."""
        probed = (pl.col(recipe) != BASELINE) & pl.col(probe).is_in(USUAL_PROBES)
        alone = probed | (pl.col(recipe) == ORACLE)
        name = pl.when(alone).then(pl.col(recipe)).otherwise(pl.concat_str(recipe, probe, separator="/"))
        return table.with_columns(name.alias(key))


def _one_per_seed(table: pl.DataFrame) -> pl.DataFrame:
    """One row where there are several seeds: the one over all of them (seed null) if it is there, or their
    mean.
    """
    by = ["key", "recipe", "probe", "cohort", "task", "category", "indication", "horizon_days", "metric"]
    over_all = pl.col("seed").is_null()
    table = table.filter(over_all | ~over_all.any().over(by))
    several = pl.len() > 1
    first = ("n", "n_positive", "n_subjects")
    return table.group_by(by, maintain_order=True).agg(
        pl.col("value").mean(),
        *(pl.when(several).then(None).otherwise(pl.col(c).first()).alias(c) for c in ("ci_low", "ci_high")),
        *(pl.col(c).first() for c in first),
    )
