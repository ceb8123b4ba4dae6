"""Dagster checks of this room: fitted on train subjects only, and on the same nodes by every method."""

from collections.abc import Sequence

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetKey,
    PartitionsDefinition,
    asset_check,
)

from ehr_assets.cohorts.assets import is_simulated
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.meds.assets import subject_splits_key
from ehr_assets.nodes.assets import decision_nodes_key, task_labels_key
from ehr_assets.probes.assets import baseline_metrics_key, oracle_metrics_key, probe_metrics_key
from resources.points import Points
from resources.storage import Datasets

MOST_WITHOUT_FEATURES = 0.05
"""Share of nodes without a finite embedding from which on a recipe is scored on other nodes than the rest."""


def recipe_probe_checks(points: Points, corpus: CorpusSpec) -> list[AssetChecksDefinition]:
    key = probe_metrics_key(points.recipe.name)
    return [_fitted_on_train_only(key, corpus.cohorts, points.partitions), _nodes_have_features(key, points)]


def cohort_probe_checks(cohort: CohortSpec) -> list[AssetChecksDefinition]:
    keys = [baseline_metrics_key(cohort.name)]
    if is_simulated(cohort):
        keys.append(oracle_metrics_key(cohort.name))
    return [_fitted_on_train_only(key, [cohort.name]) for key in keys]


def _fitted_on_train_only(
    key: AssetKey, cohorts: Sequence[str], partitions: PartitionsDefinition | None = None
) -> AssetChecksDefinition:
    parts = {c: (decision_nodes_key(c), task_labels_key(c), subject_splits_key(c)) for c in cohorts}

    @asset_check(
        asset=key,
        name="fitted_on_train_only",
        partitions_def=partitions,
        blocking=True,
        additional_deps=[k for keys in parts.values() for k in keys],
        description="Every scaler, vocabulary, model and threshold saw exactly the subjects that it may see.",
    )
    def fitted_on_train_only(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.leakage.proof import CohortFiles, fits_proved

        dataset = datasets.judged(context, key)
        files = {
            cohort: CohortFiles(*(datasets.used(context.instance, dataset, k).path for k in keys))
            for cohort, keys in parts.items()
        }
        findings = fits_proved(key.path[0], dataset.path, files)
        failed = [f for f in findings if f.verdict == "fail"]
        counts = {"fits": findings[0].n, "problems": len(failed)}
        said = "; ".join(sorted({f"{f.about or 'all'}: {f.note}" for f in failed}))
        return datasets.judge(dataset, not failed, counts, description=said or None)

    return fitted_on_train_only


def _nodes_have_features(key: AssetKey, points: Points) -> AssetChecksDefinition:
    @asset_check(
        asset=key,
        name="nodes_have_features",
        partitions_def=points.partitions,
        blocking=True,
        description="Nearly all nodes have a finite embedding: else methods are scored on different nodes.",
    )
    def nodes_have_features(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        dataset = datasets.judged(context, key)
        stats = dataset.manifest.stats
        nodes, without = stats["nodes"], stats["nodes_without_features"]
        counts = {"nodes": nodes, "nodes_without_features": without}
        return datasets.judge(dataset, without <= MOST_WITHOUT_FEATURES * nodes, counts)

    return nodes_have_features
