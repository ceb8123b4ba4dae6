"""Dagster checks of this room: embeddings are finite, complete, and do not see the future."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.corpora.assets import token_corpus_key, tokenizer_key
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.embeddings.assets import node_embeddings_key
from ehr_assets.meds.assets import meds_events_key
from ehr_assets.nodes.assets import decision_nodes_key
from ehr_assets.training.assets import checkpoint_key
from resources.points import Points
from resources.storage import Datasets

TOLERANCE = 1e-4
SAMPLE = 32


def embedding_checks(points: Points, corpus: CorpusSpec) -> list[AssetChecksDefinition]:
    recipe, partitions = points.recipe, points.partitions
    key, checkpoint = node_embeddings_key(recipe.name), checkpoint_key(recipe.name)
    tokens, tokenizer = token_corpus_key(corpus.name), tokenizer_key(corpus.name)
    nodes_keys = {c: decision_nodes_key(c) for c in corpus.cohorts}
    meds_keys = {c: meds_events_key(c) for c in corpus.cohorts}

    @asset_check(
        asset=key,
        name="finite_and_complete",
        partitions_def=partitions,
        blocking=True,
        additional_deps=list(nodes_keys.values()),
        description="Every decision node has one embedding, and every number in it is finite.",
    )
    def finite_and_complete(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        import numpy as np
        import polars as pl

        dataset = datasets.judged(context, key)
        found = pl.read_parquet(dataset.path / "embeddings.parquet")
        nodes = pl.concat(
            pl.read_parquet(
                datasets.used(context.instance, dataset, k).path / "nodes.parquet", columns=["node_id"]
            )
            for k in nodes_keys.values()
        )
        missing = nodes.join(found, on="node_id", how="anti").height
        repeated = found.height - found["node_id"].n_unique()
        values = found["embedding"].to_numpy()
        bad = int((~np.isfinite(values)).any(axis=1).sum()) if found.height else 0
        return datasets.judge(
            dataset,
            not (missing or repeated or bad),
            {"nodes": nodes.height, "missing": missing, "repeated": repeated, "not_finite": bad},
        )

    @asset_check(
        asset=key,
        name="windows_hold_no_future",
        partitions_def=partitions,
        blocking=True,
        additional_deps=[tokens, *nodes_keys.values()],
        description="No token in any node's window became available after the node's time.",
    )
    def windows_hold_no_future(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        import polars as pl

        from ehr_assets.embeddings.audit import newest_in_windows
        from ehr_assets.leakage.windows import future_in_windows

        dataset = datasets.judged(context, key)
        corpus_dir = datasets.used(context.instance, dataset, tokens).path
        nodes = pl.concat(
            pl.read_parquet(datasets.used(context.instance, dataset, k).path / "nodes.parquet")
            for k in nodes_keys.values()
        )
        newest = newest_in_windows(corpus_dir, nodes, points.at(context).embedding.max_tokens)
        finding = future_in_windows(nodes, newest)
        return datasets.judge(
            dataset, finding.ok, {"nodes": finding.nodes, "nodes_with_future": finding.late_nodes}
        )

    @asset_check(
        asset=key,
        name="same_without_the_future",
        partitions_def=partitions,
        blocking=True,
        additional_deps=[checkpoint, tokenizer, *meds_keys.values(), *nodes_keys.values()],
        description=(
            f"S(t) of {SAMPLE} sampled nodes, computed again from records from which everything that became "
            f"available after t was deleted, differs by at most {TOLERANCE:g} (relative)."
        ),
    )
    def same_without_the_future(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.embeddings.recompute import recompute_sample

        dataset, settings = datasets.judged(context, key), points.at(context).embedding
        error = recompute_sample(
            corpus,
            datasets.used(context.instance, dataset, checkpoint).path,
            datasets.used(context.instance, dataset, tokenizer).path,
            {c: datasets.used(context.instance, dataset, k).path for c, k in meds_keys.items()},
            {c: datasets.used(context.instance, dataset, k).path for c, k in nodes_keys.items()},
            dataset.path,
            max_tokens=settings.max_tokens,
            pooling=settings.pooling,
            sample=SAMPLE,
        )
        return datasets.judge(
            dataset, error <= TOLERANCE, {"max_relative_error": error, "tolerance": TOLERANCE}
        )

    return [finite_and_complete, windows_hold_no_future, same_without_the_future]
