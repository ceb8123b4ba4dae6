"""Dagster assets of this room: `<recipe>/probe_metrics`, and of cohorts the baselines and the oracle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    MaterializeResult,
    MetadataValue,
    asset,
)

from ehr_assets.cohorts.assets import is_simulated, latent_truth_key
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.embeddings.assets import control_embeddings_key, has_control, node_embeddings_key
from ehr_assets.leakage.assets import leak_audit_key
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version
from ehr_assets.lineage.subjects import FITTED, SCORED, Roles, of_rows
from ehr_assets.meds.assets import meds_events_key, subject_splits_key
from ehr_assets.nodes.assets import decision_nodes_key, task_labels_key
from ehr_assets.training.recipe import RecipeSpec
from resources.points import Points
from resources.storage import Datasets, Shown, Stats, Step, asset_name

UNTRAINED = "untrained"
"""The control's name in tables of scores."""


def probe_metrics_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, "probe_metrics"])


def control_metrics_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, "control_metrics"])


def baseline_metrics_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "baseline_metrics"])


def oracle_metrics_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "oracle_metrics"])


def _labelled_nodes(cohort: str) -> list[AssetKey]:
    return [decision_nodes_key(cohort), task_labels_key(cohort), subject_splits_key(cohort)]


def _dirs(step: Step, cohort: str):
    from ehr_assets.probes.frames import CohortDirs

    return CohortDirs(*(step.inputs[asset_name(key)].path for key in _labelled_nodes(cohort)))


def _scores(dataset: Dataset) -> dict[str, MetadataValue]:
    """Mean AUROC per method as numbers, which Dagster plots over materializations; all of them as a table."""
    from ehr_assets.probes.summary import auroc_means, auroc_table, read_metrics

    metrics = read_metrics(dataset.path)
    means = {f"mean AUROC, {name}": MetadataValue.float(v) for name, v in auroc_means(metrics).items()}
    return {**means, "AUROC on held-out": MetadataValue.md(auroc_table(metrics))}


SCORES = Shown(schema_of="metrics", more=_scores)


def recipe_probe_assets(points: Points, corpus: CorpusSpec) -> list[AssetsDefinition]:
    recipe = points.recipe
    labelled = [k for c in corpus.cohorts for k in _labelled_nodes(c)]
    version = code_version(["probes/probe.py"], recipe.config_hash("probe", "seed"))

    def probed(
        context: AssetExecutionContext,
        datasets: Datasets,
        embeddings: AssetKey,
        name: str,
        recipe: RecipeSpec,
    ) -> MaterializeResult:
        from ehr_assets.probes.probe import probe_recipe

        def build(step: Step) -> Stats:
            return probe_recipe(
                name,
                step.inputs[asset_name(embeddings)].path,
                {cohort: _dirs(step, cohort) for cohort in corpus.cohorts},
                step.out,
                recipe.probe,
                seed=recipe.seed,
                machine=step.machine,
                progress=step.progress,
            )

        def probed_on(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Roles:
            splits = {c: inputs[asset_name(subject_splits_key(c))].path for c in corpus.cohorts}
            return _probed_on(dataset, inputs[asset_name(embeddings)], splits)

        return datasets.materialize(
            context, build, config=_settings(recipe), seed=recipe.seed, shown=SCORES, subjects=probed_on
        )

    embeddings = node_embeddings_key(recipe.name)

    @asset(
        key=probe_metrics_key(recipe.name),
        deps=[embeddings, *labelled, *map(leak_audit_key, (recipe.name, *corpus.cohorts))],
        group_name=recipe.name,
        kinds={"scikitlearn", "parquet"},
        code_version=version,
        description="What a simple model reads off S(t), task by task, with patient-level intervals.",
        partitions_def=points.partitions,
        metadata=points.metadata(_settings),
    )
    def probe_metrics(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        return probed(context, datasets, embeddings, points.scored_as(context), points.at(context))

    if not has_control(points):
        return [probe_metrics]
    control = control_embeddings_key(recipe.name)

    @asset(
        key=control_metrics_key(recipe.name),
        deps=[control, *labelled, *map(leak_audit_key, corpus.cohorts)],
        group_name=recipe.name,
        kinds={"scikitlearn", "parquet"},
        code_version=version,
        description="The same of the backbone before any training: what its architecture gives for free.",
    )
    def control_metrics(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        return probed(context, datasets, control, UNTRAINED, recipe)

    return [probe_metrics, control_metrics]


def _probed_on(dataset: Dataset, states: Dataset, splits: Mapping[str, Path]) -> Roles:
    """Scored: who has a held-out prediction. Fitted: all with a state that a probe may have been fitted or
    chosen on, whichever of the tasks they had a label of."""
    import polars as pl

    fitted = {}
    for cohort, ids in of_rows(states.path / "embeddings.parquet").items():
        dealt = pl.read_parquet(splits[cohort] / "subject_splits.parquet")
        developing = dealt.filter(pl.col("split").is_in(["train", "tuning"]))["subject_id"]
        fitted[cohort] = set(ids) & set(developing.to_list())
    return {FITTED: fitted, SCORED: of_rows(dataset.path / "predictions.parquet", split="held_out")}


def _settings(recipe: RecipeSpec) -> dict[str, Any]:
    return recipe.probe.model_dump(mode="json")


def cohort_probe_assets(cohort: CohortSpec) -> list[AssetsDefinition]:
    """The baselines, and for a simulated cohort the oracle ceiling: the one reader of the latent truth."""
    meds, spec = meds_events_key(cohort.name), cohort.baselines

    @asset(
        key=baseline_metrics_key(cohort.name),
        deps=[meds, *_labelled_nodes(cohort.name), leak_audit_key(cohort.name)],
        group_name=cohort.name,
        kinds={"xgboost", "scikitlearn", "parquet"},
        code_version=code_version(["probes/baselines.py"], spec.config_hash()),
        description="Linear models, trees and a bag of codes, of what was known at each node.",
    )
    def baseline_metrics(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.probes.baselines import baseline_metrics

        def build(step: Step) -> Stats:
            meds_dir = step.inputs[asset_name(meds)].path
            dirs = _dirs(step, cohort.name)
            at = {"machine": step.machine, "progress": step.progress}
            return baseline_metrics(cohort.name, meds_dir, dirs, step.out, spec, **at)

        return datasets.materialize(
            context, build, config=spec.model_dump(mode="json"), seed=spec.seed, shown=SCORES
        )

    if not is_simulated(cohort):
        return [baseline_metrics]
    truth = latent_truth_key(cohort.name)

    @asset(
        key=oracle_metrics_key(cohort.name),
        deps=[truth, *_labelled_nodes(cohort.name)],
        group_name=cohort.name,
        kinds={"xgboost", "scikitlearn", "parquet"},
        code_version=code_version(["probes/oracle.py"], spec.config_hash()),
        description="The ceiling: the same tasks predicted from the simulator's latent state at each node.",
    )
    def oracle_metrics(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.probes.oracle import oracle_metrics

        def build(step: Step) -> Stats:
            truth_dir = step.inputs[asset_name(truth)].path
            dirs = _dirs(step, cohort.name)
            at = {"machine": step.machine, "progress": step.progress}
            return oracle_metrics(cohort.name, truth_dir, dirs, step.out, spec, **at)

        return datasets.materialize(
            context, build, config=spec.model_dump(mode="json"), seed=spec.seed, shown=SCORES
        )

    return [baseline_metrics, oracle_metrics]
