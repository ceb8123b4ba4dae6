"""Dagster checks of this room: nodes stand on known events, labels keep the window rule."""

from collections.abc import Mapping
from typing import Any

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.meds.assets import meds_events_key
from ehr_assets.nodes.assets import decision_nodes_key, task_labels_key
from ehr_assets.nodes.task_spec import TaskSet
from resources.storage import Datasets


def node_checks(cohort: CohortSpec, tasks: TaskSet) -> list[AssetChecksDefinition]:
    meds, nodes_key, labels_key = (
        key(cohort.name) for key in (meds_events_key, decision_nodes_key, task_labels_key)
    )
    spec = cohort.decision_nodes
    assert spec

    @asset_check(
        asset=nodes_key,
        name="nodes_stand_without_future",
        blocking=True,
        additional_deps=[meds],
        description=(
            "Found again in a record from which everything with available_time after a cut was deleted, "
            "the nodes up to the cut are the same: no trigger, no indication and no subgroup looks ahead."
        ),
    )
    def nodes_stand_without_future(
        context: AssetCheckExecutionContext, datasets: Datasets
    ) -> AssetCheckResult:
        from ehr_assets.nodes.recompute import nodes_without_future

        dataset = datasets.latest(context.instance, nodes_key)
        record = datasets.used(context.instance, dataset, meds)
        finding = nodes_without_future(spec, cohort.name, dataset.path, record.path)
        return datasets.judge(
            dataset,
            finding.ok,
            {
                "subjects": finding.subjects,
                "nodes": finding.nodes,
                "nodes_changed": finding.changed,
                "subgroups_changed": finding.subgroups_changed,
                "flow_adds_up": finding.flow_adds_up,
            },
        )

    @asset_check(
        asset=labels_key,
        name="labels_keep_window",
        blocking=True,
        additional_deps=[meds],
        description=(
            f"No label rests on the buffer ({tasks.buffer_hours:g} h after t) or on what follows the "
            "horizon; negatives were followed to the horizon; none is given near death."
        ),
    )
    def labels_keep_window(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.nodes.judge import judge_labels

        dataset = datasets.latest(context.instance, labels_key)
        record = datasets.used(context.instance, dataset, meds)
        finding = judge_labels(tasks, spec, dataset.path, record.path)
        counts = {
            "labels": finding.labels,
            "inside_buffer": finding.inside_buffer,
            "beyond_horizon": finding.beyond_horizon,
            "without_follow_up": finding.without_follow_up,
            "near_death": finding.near_death,
            "other": finding.null_with_event
            + finding.without_event_time
            + finding.wrong_duration
            + finding.repeated
            + finding.unknown_task,
        }
        return datasets.judge(dataset, finding.ok, counts)

    @asset_check(
        asset=labels_key,
        name="tasks_have_both_classes",
        description="Every task has positives and negatives, or values, and is asked once (a warning only).",
    )
    def tasks_have_both_classes(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        dataset = datasets.latest(context.instance, labels_key)
        stats = dataset.manifest.stats
        lacking = sorted(
            name
            for name, task in stats["tasks"].items()
            if not all(task[label] for label in ("positive", "negative", "measured") if label in task)
        )
        counts = {
            "tasks_lacking_a_class": lacking,
            "outcome_never_occurs": _flagged(stats, "never_occurs"),
            "horizon_beyond_follow_up": _flagged(stats, "horizon_beyond_follow_up"),
            "same_definitions": [", ".join(names) for names in stats["same_definitions"]],
        }
        return datasets.judge(dataset, not any(counts.values()), counts, warns=True)

    return [nodes_stand_without_future, labels_keep_window, tasks_have_both_classes]


def _flagged(stats: Mapping[str, Any], flag: str) -> list[str]:
    return sorted(name for name, task in stats["tasks"].items() if task[flag])
