"""Dagster checks of this room: nodes stand on known events, labels keep the window rule."""

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
            f"No label rests on the first {tasks.buffer_hours:g} h after t or on what follows the horizon; "
            "negatives were followed to the horizon; none is given near death."
        ),
    )
    def labels_keep_window(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.leakage.labels import labels_keep_window
        from ehr_assets.meds.reading import follow_up, scan_events
        from ehr_assets.nodes.frames import read_labels
        from ehr_assets.nodes.labels import extension_days

        dataset = datasets.latest(context.instance, labels_key)
        record = datasets.used(context.instance, dataset, meds)
        finding = labels_keep_window(
            {task.name: read_labels(dataset.path, task.name) for task in tasks.tasks},
            {task.name: task.horizon_days for task in tasks.tasks},
            follow_up(scan_events(record.path)),
            tasks.buffer_hours,
            tasks.end_of_life_days,
            extension_days(tasks, spec, record.path),
        )
        counts = {
            "labels": finding.labels,
            "inside_buffer": finding.inside_buffer,
            "beyond_horizon": finding.beyond_horizon,
            "without_follow_up": finding.without_follow_up,
            "near_death": finding.near_death,
            "other": finding.null_with_event
            + finding.without_event_time
            + finding.repeated
            + finding.unknown_task,
        }
        return datasets.judge(dataset, finding.ok, counts)

    @asset_check(
        asset=labels_key,
        name="tasks_have_both_classes",
        description="Every task has positives and negatives somewhere (a warning only).",
    )
    def tasks_have_both_classes(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.nodes.frames import read_labels

        dataset = datasets.latest(context.instance, labels_key)
        lacking = sorted(
            task.name
            for task in tasks.tasks
            if read_labels(dataset.path, task.name)["boolean_value"].drop_nulls().n_unique() < 2
        )
        return datasets.judge(dataset, not lacking, {"tasks_lacking_a_class": lacking})

    return [nodes_stand_without_future, labels_keep_window, tasks_have_both_classes]
