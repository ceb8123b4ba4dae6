"""From specs to Dagster definitions: which assets exist, their checks, resources and gates.

What an asset does stands in its room's `assets.py`; here is only which ones there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster import AssetChecksDefinition, AssetsDefinition, Definitions, EnvVar, MetadataValue

from ehr_assets.catalog import Catalog, load_catalog
from ehr_assets.cohorts.assets import cohort_assets
from ehr_assets.cohorts.checks import cohort_checks
from ehr_assets.corpora.assets import corpus_assets
from ehr_assets.corpora.checks import corpus_checks
from ehr_assets.embeddings.assets import embedding_assets
from ehr_assets.embeddings.checks import embedding_checks
from ehr_assets.leakage.assets import cohort_audit_assets, recipe_audit_assets
from ehr_assets.leakage.checks import cohort_audit_checks, recipe_audit_checks
from ehr_assets.lineage.assets import dossier_assets
from ehr_assets.lineage.checks import dossier_checks
from ehr_assets.meds.assets import meds_assets
from ehr_assets.meds.checks import meds_checks
from ehr_assets.nodes.assets import node_assets
from ehr_assets.nodes.checks import node_checks
from ehr_assets.probes.assets import cohort_probe_assets, recipe_probe_assets
from ehr_assets.probes.checks import cohort_probe_checks, recipe_probe_checks
from ehr_assets.reports.ablation.assets import ablation_assets
from ehr_assets.reports.ablation.checks import ablation_checks
from ehr_assets.reports.assets import comparison_assets, report_assets, verdict_assets
from ehr_assets.reports.checks import comparison_checks, report_checks, verdict_checks
from ehr_assets.reports.profile.assets import profile_assets
from ehr_assets.reports.profile.checks import profile_checks
from ehr_assets.reports.promotion.assets import promotion_assets, rollback_assets
from ehr_assets.reports.promotion.checks import promotion_checks, rollback_checks
from ehr_assets.settings import TRACKING_VARIABLE, Settings
from ehr_assets.training.assets import training_assets
from ehr_assets.training.checks import training_checks
from jobs.audit import audit_sensors
from jobs.automation import automation_sensor, with_automation
from jobs.jobs import chain_jobs
from jobs.notify import failure_sensor
from jobs.retraining import Retraining, load_retraining, retraining_jobs
from jobs.schedules import retraining_schedule
from jobs.sensors import chosen_sensor, raw_tables_sensor
from resources.confidential import keep_confidential
from resources.executors import executor_of
from resources.launcher import DeepSpeedLauncher
from resources.notifiers import notifier
from resources.points import Points
from resources.storage import Datasets, asset_name
from resources.tracking import MlflowTracking


@dataclass(frozen=True)
class Project:
    """The definitions, and what they were made from."""

    settings: Settings
    definitions: Definitions
    catalog: Catalog
    gates: Mapping[str, list[str]]


def build_definitions(settings: Settings, overrides: Mapping[str, Any] | None = None) -> Definitions:
    """Assets, checks, jobs and resources for every spec; `overrides` replace resources by name (tests)."""
    return build_project(settings, overrides).definitions


def build_project(settings: Settings, overrides: Mapping[str, Any] | None = None) -> Project:
    """As `build_definitions`, with the catalog and the gates beside it.

    Raises:
        SpecError: a spec or a setting cannot be used.
    """
    catalog = load_catalog(settings)
    assets: list[AssetsDefinition] = []
    checks: list[AssetChecksDefinition] = []
    for name, cohort in catalog.cohorts.items():
        assets += [*cohort_assets(cohort), *meds_assets(cohort), *profile_assets(cohort)]
        checks += [*cohort_checks(cohort), *meds_checks(cohort), *profile_checks(cohort)]
        if tasks := catalog.tasks_of(name):
            assets += [*node_assets(cohort, tasks), *cohort_probe_assets(cohort)]
            checks += [*node_checks(cohort, tasks), *cohort_probe_checks(cohort)]
            assets += cohort_audit_assets(cohort, tasks)
            checks += cohort_audit_checks(cohort)
    for corpus in catalog.corpora.values():
        assets += corpus_assets(corpus)
        checks += corpus_checks(corpus)
    for trained in (*catalog.recipes.values(), *catalog.grids.values()):
        points = Points.of(trained)
        corpus = catalog.corpora[points.recipe.corpus]
        assets += [*training_assets(points, corpus), *embedding_assets(points, corpus)]
        accepted = {name: catalog.cohorts[name].accepted_features for name in corpus.cohorts}
        assets += [*recipe_audit_assets(points, corpus, accepted), *recipe_probe_assets(points, corpus)]
        checks += [*training_checks(points), *embedding_checks(points, corpus)]
        checks += recipe_audit_checks(points, corpus.cohorts)
        checks += recipe_probe_checks(points, corpus)
        assets += dossier_assets(points)
        checks += dossier_checks(points)
    for grid in catalog.grids.values():
        assets += ablation_assets(grid)
        checks += ablation_checks(grid)
    for report in catalog.reports.values():
        assets += [
            *comparison_assets(report, catalog),
            *verdict_assets(report, catalog),
            *report_assets(report, catalog),
            *promotion_assets(report),
        ]
        checks += [*comparison_checks(report), *verdict_checks(report), *report_checks(report)]
        checks += promotion_checks(report.name)
    for model in dict.fromkeys(report.candidate for report in catalog.reports.values()):
        assets += rollback_assets(model)
        checks += rollback_checks(model)

    gates = _gates(checks)
    assets = with_automation(assets, load_retraining(settings))
    keep_confidential([*assets, *checks])
    retraining = Retraining(catalog, assets)
    chosen, *other_jobs = retraining_jobs(retraining, settings)
    keep_confidential([chosen, *other_jobs])
    resources: dict[str, Any] = {
        "datasets": Datasets(
            home=str(settings.home), remote=settings.remote, gates=gates, partitions=_partitions(assets)
        ),
        "launcher": DeepSpeedLauncher(
            hostfile=settings.hostfile,
            ray_address=settings.ray_address if settings.train_on_ray else "",
            slots=settings.host_slots,
            remote_shell=list(settings.remote_shell),
        ),
        # By name where it can be: Dagster shows and stores what resources are configured with.
        "tracking": MlflowTracking(
            uri=EnvVar(TRACKING_VARIABLE) if settings.tracking_from_env else settings.mlflow_uri
        ),
        "notifier": notifier(settings),
        **(overrides or {}),
    }
    definitions = Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[*chain_jobs(catalog), retraining.job, chosen, *other_jobs],
        schedules=[retraining_schedule(retraining, settings)],
        sensors=[
            raw_tables_sensor(retraining, settings),
            chosen_sensor(retraining, chosen),
            failure_sensor(),
            automation_sensor(assets),
            *audit_sensors(settings.home),
        ],
        resources=resources,
        executor=executor_of(settings, assets),
        metadata={"EHR_HOME": MetadataValue.path(settings.where)},
    )
    return Project(settings, definitions, catalog, gates)


def _partitions(assets: list[AssetsDefinition]) -> dict[str, list[str]]:
    """Asset → its partitions, of those that have any."""
    return {
        asset_name(key): list(definition.partitions_def.get_partition_keys())
        for definition in assets
        if definition.partitions_def
        for key in definition.keys
    }


def _gates(checks: list[AssetChecksDefinition]) -> dict[str, list[str]]:
    """Asset → its blocking checks: what `require_passed_checks` asks for."""
    gates: dict[str, list[str]] = {}
    for definition in checks:
        for spec in definition.check_specs:
            if spec.blocking:
                gates.setdefault(asset_name(spec.asset_key), []).append(spec.name)
    return {name: sorted(names) for name, names in sorted(gates.items())}
