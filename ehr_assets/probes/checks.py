"""Dagster checks of this room: fitted on train subjects only."""

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


def recipe_probe_checks(points: Points, corpus: CorpusSpec) -> list[AssetChecksDefinition]:
    return [_fitted_on_train_only(probe_metrics_key(points.recipe.name), corpus.cohorts, points.partitions)]


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
        description="Scalers, features and probes were fitted on labelled train subjects and no others.",
    )
    def fitted_on_train_only(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.leakage.fits import fitted_on_subjects, read_fitted_on
        from ehr_assets.probes.frames import CohortDirs, load_nodes

        dataset = datasets.judged(context, key)
        train: dict[str, list[int]] = {}
        for cohort, keys in parts.items():
            dirs = CohortDirs(*(datasets.used(context.instance, dataset, k).path for k in keys))
            train[cohort] = load_nodes(cohort, dirs).labelled_subjects("train").tolist()
        finding = fitted_on_subjects(read_fitted_on(dataset.path), train)
        return datasets.judge(dataset, finding.ok, finding.counts, description=finding.problem)

    return fitted_on_train_only
