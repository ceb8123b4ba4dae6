"""Dagster assets of this room: `<recipe>/node_embeddings`, and of some recipes `<recipe>/control_embeddings`.

A control belongs to a corpus, a backbone and the way of embedding, which several recipes have in common; the
recipe that says `embedding.control` makes it for all of them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, asset

from ehr_assets.corpora.assets import input_dirs, token_corpus_key, tokenizer_key
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version, settings_hash
from ehr_assets.lineage.subjects import EMBEDDED, Roles, of_rows
from ehr_assets.nodes.assets import decision_nodes_key
from ehr_assets.training.assets import checkpoint_key
from ehr_assets.training.recipe import RecipeSpec
from resources.points import Points
from resources.storage import Datasets, Shown, Stats, Step, asset_name

if TYPE_CHECKING:
    from ehr_assets.embeddings.encoder import Source


def node_embeddings_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, "node_embeddings"])


def control_embeddings_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, "control_embeddings"])


def has_control(points: Points) -> bool:
    """Where a recipe has seeds, they share one, of its own `backbone.seed`. Of a grid, the base has it."""
    return points.recipe.embedding.control and (points.partitions is None or bool(points.recipe.seeds))


def embedding_assets(points: Points, corpus: CorpusSpec) -> list[AssetsDefinition]:
    recipe = points.recipe
    checkpoint, tokens = checkpoint_key(recipe.name), token_corpus_key(corpus.name)
    tokenizer = tokenizer_key(corpus.name)
    nodes = [decision_nodes_key(c) for c in corpus.cohorts]

    def embedded(recipe: RecipeSpec, source: Callable[[Step], "Path | Source"]) -> Callable[[Step], Stats]:
        def build(step: Step) -> Stats:
            from ehr_assets.embeddings.extract import embed_nodes

            return embed_nodes(
                source(step),
                step.inputs[asset_name(tokens)].path,
                input_dirs(step, corpus.cohorts, decision_nodes_key),
                step.out,
                **recipe.embedding.settings(),
                work_dir=step.work.open(),
                cores=step.machine.workers,
                machine=step.machine,
                progress=step.progress,
            )

        return build

    @asset(
        key=node_embeddings_key(recipe.name),
        deps=[checkpoint, tokens, *nodes],
        group_name=recipe.name,
        kinds={"torch", "parquet"},
        pool="gpu",
        code_version=code_version(["embeddings/extract.py"], settings_hash(_settings(recipe))),
        description="S(t): one vector per decision node from the frozen model, over what was known at t.",
        partitions_def=points.partitions,
        metadata=points.metadata(_settings),
    )
    def node_embeddings(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        recipe = points.at(context)
        build = embedded(recipe, lambda step: step.inputs[asset_name(checkpoint)].path)
        return datasets.materialize(
            context, build, config=_settings(recipe), shown=STATES, subjects=_embedded
        )

    if not has_control(points):
        return [node_embeddings]

    @asset(
        key=control_embeddings_key(recipe.name),
        deps=[tokenizer, tokens, *nodes],
        group_name=recipe.name,
        kinds={"torch", "parquet"},
        pool="gpu",
        code_version=code_version(
            ["embeddings/extract.py", "embeddings/untrained.py"], settings_hash(_control_settings(recipe))
        ),
        description="S(t) of the same backbone before any training: what the architecture gives for free.",
    )
    def control_embeddings(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.embeddings.untrained import Untrained

        build = embedded(recipe, lambda step: Untrained(recipe, step.inputs[asset_name(tokenizer)].path))
        return datasets.materialize(context, build, config=_control_settings(recipe), shown=STATES)

    return [node_embeddings, control_embeddings]


def _embedded(dataset: Dataset, _: Mapping[str, Dataset]) -> Roles:
    return {EMBEDDED: of_rows(dataset.path / "embeddings.parquet")}


STATES = Shown(schema_of="embeddings")


def _settings(recipe: RecipeSpec) -> dict[str, Any]:
    return recipe.embedding.settings()


def _control_settings(recipe: RecipeSpec) -> dict[str, Any]:
    return {**_settings(recipe), "backbone": recipe.backbone.model_dump(mode="json")}
