"""Dagster assets of this room: `<cohort>/leak_audit` and `<recipe>/leak_audit`.

Assets and not checks, because reports show what they found, and because an audit can be made again alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.corpora.assets import input_dirs, token_corpus_key, tokenizer_key
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.embeddings.assets import node_embeddings_key
from ehr_assets.leakage.accepted_spec import AcceptedFeature
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version, combined_hash
from ehr_assets.meds.assets import meds_events_key, subject_splits_key
from ehr_assets.nodes.assets import decision_nodes_key, task_labels_key
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.training.recipe import RecipeSpec
from resources.points import Points
from resources.storage import Datasets, Shown, Stats, Step, asset_name


def leak_audit_key(name: str) -> AssetKey:
    """Of a cohort or of a recipe."""
    return AssetKey([name, "leak_audit"])


def cohort_audit_assets(cohort: CohortSpec, tasks: TaskSet) -> list[AssetsDefinition]:
    decisions = cohort.decision_nodes
    assert decisions
    keys = [
        key(cohort.name) for key in (meds_events_key, subject_splits_key, decision_nodes_key, task_labels_key)
    ]
    rules = [rule.model_dump(mode="json") for rule in cohort.availability]
    outcomes = _outcomes(tasks)
    accepted = [one.model_dump(mode="json") for one in cohort.accepted_features]
    config = {"availability": rules, "accepted_features": accepted, "outcomes": outcomes}

    @asset(
        key=leak_audit_key(cohort.name),
        deps=keys,
        group_name=cohort.name,
        kinds={"polars", "parquet"},
        code_version=code_version(
            ["leakage/audit.py"],
            combined_hash(
                [
                    cohort.config_hash("availability", "accepted_features", "decision_nodes"),
                    json.dumps(outcomes),
                ]
            ),
        ),
        description="What leak guards find in the cohort's records, nodes, labels and features.",
    )
    def leak_audit(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.leakage.audit import CohortInputs, Said, audit_cohort

        said = Said(decisions, cohort.availability, outcomes, cohort.accepted_features)

        def build(step: Step) -> Stats:
            inputs = CohortInputs(cohort.name, *[step.inputs[asset_name(key)].path for key in keys])
            return {**audit_cohort(inputs, said, step.out, progress=step.progress)}

        return datasets.materialize(context, build, config=config, shown=SHOWN)

    return [leak_audit]


def _outcomes(tasks: TaskSet) -> dict[str, Any]:
    """What the tasks predict, and nothing of how they are asked."""
    said = tasks.model_dump(mode="json")
    kept = [{k: task[k] for k in ("name", "outcome", "target") if k in task} for task in said["tasks"]]
    return {"derived": said.get("derived") or {}, "tasks": kept}


def recipe_audit_assets(
    points: Points, corpus: CorpusSpec, accepted: Mapping[str, Sequence[AcceptedFeature]]
) -> list[AssetsDefinition]:
    """accepted: cohort → its `accepted_features`."""
    recipe = points.recipe
    said = {cohort: [one.model_dump(mode="json") for one in own] for cohort, own in accepted.items()}

    def settings(recipe: RecipeSpec) -> dict[str, Any]:
        return {"embedding": recipe.embedding.settings(), "accepted_features": said}

    embeddings, tokens = node_embeddings_key(recipe.name), token_corpus_key(corpus.name)
    tokenizer = tokenizer_key(corpus.name)
    of_cohorts = (meds_events_key, subject_splits_key, decision_nodes_key, task_labels_key)

    @asset(
        key=leak_audit_key(recipe.name),
        deps=[embeddings, tokens, tokenizer, *(key(c) for c in corpus.cohorts for key in of_cohorts)],
        group_name=recipe.name,
        kinds={"polars", "parquet"},
        code_version=code_version(
            ["leakage/audit.py"],
            combined_hash([corpus.config_hash(), recipe.config_hash("embedding"), json.dumps(said)]),
        ),
        description="What leak guards find in what one model saw: its cohorts together, windows, embeddings.",
        partitions_def=points.partitions,
        metadata=points.metadata(settings),
    )
    def leak_audit(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.embeddings.windows import Windows
        from ehr_assets.leakage.audit import CohortInputs, audit_recipe

        laid = points.at(context).embedding

        def build(step: Step) -> Stats:
            dirs = [input_dirs(step, corpus.cohorts, key) for key in of_cohorts]
            cohorts = [CohortInputs(c, *[paths[c] for paths in dirs]) for c in corpus.cohorts]
            return {
                **audit_recipe(
                    recipe.name,
                    corpus,
                    step.inputs[asset_name(tokens)].path,
                    step.inputs[asset_name(tokenizer)].path,
                    step.inputs[asset_name(embeddings)].path,
                    cohorts,
                    Windows(laid.max_tokens, laid.anchor),
                    step.out,
                    accepted,
                    progress=step.progress,
                )
            }

        return datasets.materialize(context, build, config=settings(points.at(context)), shown=SHOWN)

    return [leak_audit]


def _table(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.leakage.findings import findings_table, read_findings

    return {"what guards found": MetadataValue.md(findings_table(read_findings(dataset.path)))}


SHOWN = Shown(schema_of="findings", more=_table)
