"""Dagster assets of this room: `<cohort>/decision_nodes` and `<cohort>/task_labels`."""

from collections.abc import Callable
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, asset

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version, combined_hash
from ehr_assets.meds.assets import meds_events_key
from ehr_assets.nodes.task_spec import TaskSet
from resources.storage import Datasets, Shown, Stats, Step, asset_name

# Of the cohort's `decision_nodes`: what the nodes and the files beside them are made with.
_SHAPES_NODES = ("triggers", "indications", "subgroups")


def decision_nodes_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "decision_nodes"])


def task_labels_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "task_labels"])


def node_assets(cohort: CohortSpec, tasks: TaskSet) -> list[AssetsDefinition]:
    meds, nodes = meds_events_key(cohort.name), decision_nodes_key(cohort.name)
    spec = cohort.decision_nodes
    assert spec

    @asset(
        key=nodes,
        deps=[meds],
        group_name=cohort.name,
        kinds={"polars", "parquet"},
        code_version=code_version(
            ["nodes/triggers.py"],
            spec.config_hash(*_SHAPES_NODES),
        ),
        description="Clinical junctions (t = 0) at which the patient's future is predicted (SMB, Table 4).",
    )
    def decision_nodes(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.nodes.triggers import find_nodes

        def build(step: Step) -> Stats:
            return find_nodes(spec, cohort.name, step.inputs[asset_name(meds)].path, step.out, step.progress)

        return datasets.materialize(
            context,
            build,
            config=spec.model_dump(mode="json", include=set(_SHAPES_NODES)),
            shown=Shown(schema_of="nodes", more=_stat("by_trigger")),
        )

    config = {
        "tasks": tasks.model_dump(mode="json"),
        "follow_up": spec.follow_up.model_dump(mode="json"),
    }

    @asset(
        key=task_labels_key(cohort.name),
        deps=[meds, nodes],
        group_name=cohort.name,
        kinds={"polars", "parquet"},
        code_version=code_version(
            ["nodes/labels.py"],
            combined_hash([tasks.config_hash(), spec.config_hash("follow_up", "triggers")]),
        ),
        description="What happened after each node, task by task; null where nobody can know (SMB, Table 9).",
    )
    def task_labels(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.nodes.labels import label_nodes

        def build(step: Step) -> Stats:
            return label_nodes(
                tasks,
                spec,
                step.inputs[asset_name(nodes)].path,
                step.inputs[asset_name(meds)].path,
                step.out,
                step.progress,
                step.machine,
            )

        return datasets.materialize(
            context, build, config=config, shown=Shown(schema_of="labels", more=_stat("tasks"))
        )

    return [decision_nodes, task_labels]


def _stat(name: str) -> Callable[[Dataset], dict[str, Any]]:
    return lambda dataset: {name: dataset.manifest.stats[name]}
