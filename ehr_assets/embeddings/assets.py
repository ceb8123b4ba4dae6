"""Dagster assets of this room: `<recipe>/node_embeddings`."""

from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, asset

from ehr_assets.corpora.assets import input_dirs, token_corpus_key
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.lineage.hashing import code_version
from ehr_assets.nodes.assets import decision_nodes_key
from ehr_assets.training.assets import checkpoint_key
from ehr_assets.training.recipe import RecipeSpec
from resources.points import Points
from resources.storage import Datasets, Shown, Stats, Step, asset_name


def node_embeddings_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, "node_embeddings"])


def embedding_assets(points: Points, corpus: CorpusSpec) -> list[AssetsDefinition]:
    recipe = points.recipe
    checkpoint, tokens = checkpoint_key(recipe.name), token_corpus_key(corpus.name)

    @asset(
        key=node_embeddings_key(recipe.name),
        deps=[checkpoint, tokens, *(decision_nodes_key(c) for c in corpus.cohorts)],
        group_name=recipe.name,
        kinds={"torch", "parquet"},
        pool="gpu",
        code_version=code_version(["embeddings/extract.py"], recipe.config_hash("embedding")),
        description="S(t): one vector per decision node from the frozen model, over what was known at t.",
        partitions_def=points.partitions,
        metadata=points.metadata(_settings),
    )
    def node_embeddings(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.embeddings.extract import embed_nodes

        settings = points.at(context).embedding

        def build(step: Step) -> Stats:
            return embed_nodes(
                step.inputs[asset_name(checkpoint)].path,
                step.inputs[asset_name(tokens)].path,
                input_dirs(step, corpus.cohorts, decision_nodes_key),
                step.out,
                max_tokens=settings.max_tokens,
                pooling=settings.pooling,
                progress=step.progress,
            )

        return datasets.materialize(
            context, build, config=_settings(points.at(context)), shown=Shown(schema_of="embeddings")
        )

    return [node_embeddings]


def _settings(recipe: RecipeSpec) -> dict[str, Any]:
    return recipe.embedding.model_dump(mode="json")
