"""Dagster assets of a report: `<report>/comparison`, `/verdict` and `/report`.

A cohort's profile and a grid's table have folders of their own, `profile/` and `ablation/`.
"""

from dataclasses import asdict
from pathlib import Path

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.catalog import Catalog
from ehr_assets.cohorts.assets import is_simulated
from ehr_assets.embeddings.assets import has_control, node_embeddings_key
from ehr_assets.leakage.assets import leak_audit_key
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version, combined_hash, settings_hash
from ehr_assets.lineage.names import asset_and_partition, dataset_name
from ehr_assets.meds.assets import meds_events_key, subject_splits_key
from ehr_assets.nodes.assets import decision_nodes_key, task_labels_key
from ehr_assets.probes.assets import (
    UNTRAINED,
    baseline_metrics_key,
    control_metrics_key,
    oracle_metrics_key,
    probe_metrics_key,
)
from ehr_assets.reports.spec import ReportSpec
from ehr_assets.training.assets import checkpoint_key
from resources.points import Points
from resources.promotions import verdict_to_beat
from resources.retries import failing_clearly
from resources.storage import Datasets, Shown, Stats, Step, asset_name
from resources.tracking import MlflowTracking

SAME_NODES = (decision_nodes_key, task_labels_key, subject_splits_key)
"""Of a cohort: what scores can only be compared on."""


def report_key(report: str) -> AssetKey:
    return AssetKey([report, "report"])


def comparison_key(report: str) -> AssetKey:
    return AssetKey([report, "comparison"])


def verdict_key(report: str) -> AssetKey:
    return AssetKey([report, "verdict"])


def report_assets(report: ReportSpec, catalog: Catalog) -> list[AssetsDefinition]:
    """The page."""
    simulated = [c for c in report.cohorts if is_simulated(catalog.cohorts[c])]
    deps = [key(recipe) for recipe in report.recipes for key in (checkpoint_key, probe_metrics_key)]
    for cohort in report.cohorts:
        deps += [key(cohort) for key in (meds_events_key, baseline_metrics_key, *SAME_NODES)]
    deps += [oracle_metrics_key(cohort) for cohort in simulated]
    deps += [node_embeddings_key(report.candidate), *_audits(report)]
    deps += [comparison_key(report.name), verdict_key(report.name)]
    # What the page shows of the recipes and cohorts themselves (titles, settings) is part of its making.
    shown = [catalog.recipes[r].config_hash() for r in report.recipes]
    shown += [catalog.cohorts[c].title for c in report.cohorts]

    @asset(
        key=report_key(report.name),
        deps=deps,
        group_name="reports",
        kinds={"html"},
        code_version=code_version(
            [f"reports/{name}" for name in ("page.py", "report.html", "blocks.html", "report.css")],
            combined_hash([report.config_hash(), *shown]),
        ),
        description=report.title,
    )
    def page(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.reports.inputs import CohortInputs, Inputs, RecipeInputs, RunInputs
        from ehr_assets.reports.page import write_report

        def build(step: Step) -> Stats:
            def path(key: AssetKey, partition: str | None = None) -> Path:
                return step.inputs[dataset_name(asset_name(key), partition)].path

            def run(recipe: str, partition: str | None) -> RunInputs:
                mapped = recipe == report.candidate
                return RunInputs(
                    checkpoint=path(checkpoint_key(recipe), partition),
                    metrics=path(probe_metrics_key(recipe), partition),
                    embeddings=path(node_embeddings_key(recipe), partition) if mapped else None,
                    audit=path(leak_audit_key(recipe), partition),
                    partition=partition,
                )

            cohorts = [
                CohortInputs(
                    name=c,
                    title=catalog.cohorts[c].title,
                    meds=path(meds_events_key(c)),
                    nodes=path(decision_nodes_key(c)),
                    labels=path(task_labels_key(c)),
                    splits=path(subject_splits_key(c)),
                    baseline=path(baseline_metrics_key(c)),
                    oracle=path(oracle_metrics_key(c)) if c in simulated else None,
                    audit=path(leak_audit_key(c)),
                )
                for c in report.cohorts
            ]
            recipes = [
                RecipeInputs(
                    name=r,
                    title=catalog.recipes[r].title,
                    settings=catalog.recipes[r].model_dump(mode="json", exclude={"name", "title"}),
                    runs=[run(r, p) for p in _partitions(step, checkpoint_key(r))],
                )
                for r in report.recipes
            ]
            lineage = [
                {"asset": name, "data version": d.data_version[:16], "code version": d.manifest.code_version}
                for name, d in step.inputs.items()
            ]
            inputs = Inputs(
                report,
                cohorts,
                recipes,
                {name: d.data_version for name, d in step.inputs.items()},
                path(comparison_key(report.name)),
                path(verdict_key(report.name)),
            )
            return write_report(inputs, lineage, step.out, step.progress, step.overrides)

        return datasets.materialize(
            context, build, config=report.model_dump(mode="json"), shown=Shown(more=_page)
        )

    return [page]


def _page(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.reports.page import PAGE, paper_tables

    tables = {title: MetadataValue.md(text) for title, text in paper_tables(dataset.path).items()}
    return {"page": MetadataValue.path(str(dataset.path / PAGE)), **tables}


def _partitions(step: Step, key: AssetKey) -> list[str | None]:
    """The partitions in which an asset is read; one that is none, where it has none."""
    found = (asset_and_partition(name) for name in step.inputs)
    return [partition for name, partition in found if name == asset_name(key)]


def _audits(report: ReportSpec) -> list[AssetKey]:
    return [leak_audit_key(name) for name in (*report.cohorts, *report.recipes)]


def verdict_assets(report: ReportSpec, catalog: Catalog) -> list[AssetsDefinition]:
    """The verdict on the report's candidate."""
    embedded = catalog.corpus_of(report.candidate).cohorts
    comparison, audits = comparison_key(report.name), _audits(report)
    nodes = [key(cohort) for cohort in report.cohorts for key in SAME_NODES]

    @asset(
        key=verdict_key(report.name),
        deps=[comparison, *audits, *nodes],
        group_name="reports",
        kinds={"json"},
        code_version=code_version(["reports/verdict.py"], combined_hash([report.config_hash(), *embedded])),
        description=f"Whether {report.label(report.candidate)} may be promoted, and why not.",
    )
    def verdict(
        context: AssetExecutionContext, datasets: Datasets, tracking: MlflowTracking
    ) -> MaterializeResult:
        from ehr_assets.reports.verdict import write_verdict

        with failing_clearly(context):
            accepted = verdict_to_beat(context.instance, datasets, tracking, report.name)

        def build(step: Step) -> Stats:
            names = {asset_name(key) for key in audits}
            return write_verdict(
                report,
                step.inputs[asset_name(comparison)].path,
                {name: d.path for name, d in step.inputs.items() if asset_and_partition(name)[0] in names},
                {name: d.data_version for name, d in step.inputs.items()},
                accepted,
                step.out,
                embedded=embedded,
            )

        config = {
            "promotion": report.promotion.model_dump(mode="json"),
            "embedded": list(embedded),
            "accepted": accepted.data_version if accepted else None,
        }
        return datasets.materialize(context, build, config=config)

    return [verdict]


def comparison_assets(report: ReportSpec, catalog: Catalog) -> list[AssetsDefinition]:
    """All methods of a report on the same held-out subjects."""
    cohorts: dict[str, dict[str, AssetKey]] = {}
    for cohort in report.cohorts:
        answered = {recipe: probe_metrics_key(recipe) for recipe in report.recipes}
        answered |= _control(report, catalog, cohort)
        answered["baseline"] = baseline_metrics_key(cohort)
        if is_simulated(catalog.cohorts[cohort]):
            answered["oracle"] = oracle_metrics_key(cohort)
        cohorts[cohort] = answered
    labelled = (decision_nodes_key, task_labels_key, subject_splits_key)
    deps = [key for answered in cohorts.values() for key in answered.values()]
    deps += [key(cohort) for cohort in report.cohorts for key in labelled]
    settings = {"recipes": report.recipes, "cohorts": report.cohorts, "pairs": report.pairs}

    @asset(
        key=comparison_key(report.name),
        deps=list(dict.fromkeys(deps)),
        group_name="reports",
        kinds={"parquet"},
        code_version=code_version(["probes/compare.py"], settings_hash(settings)),
        description="All methods on the same held-out subjects under the same resamples: metrics, means, "
        "paired differences, subgroups, reliability.",
    )
    def comparison(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.probes.compare import compare
        from ehr_assets.probes.frames import CohortDirs
        from ehr_assets.probes.panel_scores import RULES

        def build(step: Step) -> Stats:
            def folders(key: AssetKey) -> list[Path]:
                """Of an asset, or of all its partitions: the seeds."""
                return [
                    d.path
                    for name, d in step.inputs.items()
                    if asset_and_partition(name)[0] == asset_name(key)
                ]

            return compare(
                {c: CohortDirs(*(folders(key(c))[0] for key in labelled)) for c in cohorts},
                {c: {who: folders(key) for who, key in answered.items()} for c, answered in cohorts.items()},
                report.recipes,
                step.out,
                RULES,
                pairs=report.pairs,
                machine=step.machine,
                progress=step.progress,
            )

        shown = Shown(schema_of="metrics", more=_comparison)
        return datasets.materialize(context, build, config={**settings, **asdict(RULES)}, shown=shown)

    return [comparison]


def _control(report: ReportSpec, catalog: Catalog, cohort: str) -> dict[str, AssetKey]:
    """The untrained encoder of the first of the report's recipes that has one and covers the cohort."""
    for name in report.recipes:
        covers = cohort in catalog.corpus_of(name).cohorts
        if covers and has_control(Points.of(catalog.recipes[name])):
            return {UNTRAINED: control_metrics_key(name)}
    return {}


def _comparison(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.probes.summary import comparison_tables

    return {title: MetadataValue.md(text) for title, text in comparison_tables(dataset.path).items()}
