"""Dagster checks of this room: embeddings are complete, can be used, and do not see the future."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetKey,
    asset_check,
)

from ehr_assets.corpora.assets import token_corpus_key, tokenizer_key
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.embeddings.assets import control_embeddings_key, has_control, node_embeddings_key
from ehr_assets.meds.assets import meds_events_key
from ehr_assets.nodes.assets import decision_nodes_key
from ehr_assets.training.assets import checkpoint_key
from resources.points import Points
from resources.storage import Datasets

if TYPE_CHECKING:
    from ehr_assets.embeddings.audit import States

SAMPLE = 32
NOT_FINITE_AT_MOST = 0.05
"""Share of nodes without a usable state. Probes leave them out, and methods must not differ by more."""


def embedding_checks(points: Points, corpus: CorpusSpec) -> list[AssetChecksDefinition]:
    recipe, partitions = points.recipe, points.partitions
    key, checkpoint = node_embeddings_key(recipe.name), checkpoint_key(recipe.name)
    tokenizer = tokenizer_key(corpus.name)
    nodes_keys = {c: decision_nodes_key(c) for c in corpus.cohorts}
    meds_keys = {c: meds_events_key(c) for c in corpus.cohorts}

    @asset_check(
        asset=key,
        name="same_without_the_future",
        partitions_def=partitions,
        blocking=True,
        additional_deps=[checkpoint, tokenizer, *meds_keys.values(), *nodes_keys.values()],
        description=(
            f"S(t) of {SAMPLE} sampled nodes, computed again from records from which everything that became "
            "available after t was deleted, differs by at most 1e-4 (relative; 2e-2 in bfloat16)."
        ),
    )
    def same_without_the_future(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.embeddings.encoder import TOLERANCE
        from ehr_assets.embeddings.recompute import recompute_sample

        dataset, settings = datasets.judged(context, key), points.at(context).embedding
        dtype = dataset.manifest.stats["dtype"]

        def error(dtype: str) -> float:
            return recompute_sample(
                corpus,
                datasets.used(context.instance, dataset, checkpoint).path,
                datasets.used(context.instance, dataset, tokenizer).path,
                {c: datasets.used(context.instance, dataset, k).path for c, k in meds_keys.items()},
                {c: datasets.used(context.instance, dataset, k).path for c, k in nodes_keys.items()},
                dataset.path,
                max_tokens=settings.max_tokens,
                pooling=settings.pooling,
                anchor=settings.anchor,
                dtype=dtype,  # type: ignore[arg-type]
                sample=SAMPLE,
            )

        worst = error(dtype)
        said = {"max_relative_error": worst, "tolerance": TOLERANCE[dtype], "dtype": dtype}
        if dtype != "float32":
            said["max_relative_error_to_float32"] = error("float32")
        return datasets.judge(dataset, worst <= TOLERANCE[dtype], said)

    controls = [control_embeddings_key(recipe.name)] if has_control(points) else []
    return [
        same_without_the_future,
        *(check for k in (key, *controls) for check in _checks_of_any(points, corpus, k)),
    ]


def _checks_of_any(points: Points, corpus: CorpusSpec, key: AssetKey) -> list[AssetChecksDefinition]:
    """Of a trained or an untrained encoder's embeddings."""
    tokens, partitions = token_corpus_key(corpus.name), points.partitions
    nodes_keys = {c: decision_nodes_key(c) for c in corpus.cohorts}

    @asset_check(
        asset=key,
        name="finite_and_complete",
        partitions_def=partitions,
        blocking=True,
        additional_deps=list(nodes_keys.values()),
        description=(
            "Every decision node has one embedding, and at most "
            f"{NOT_FINITE_AT_MOST:.0%} of them hold a number that is not finite."
        ),
    )
    def finite_and_complete(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        return judged_states(
            context,
            datasets,
            lambda s: not (s.missing or s.repeated or s.not_finite > NOT_FINITE_AT_MOST * s.nodes),
        )

    @asset_check(
        asset=key,
        name="all_usable",
        partitions_def=partitions,
        additional_deps=list(nodes_keys.values()),
        description="No embedding holds a number that is not finite, and they are not all the same.",
    )
    def all_usable(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        return judged_states(context, datasets, lambda s: not (s.not_finite or s.constant), warns=True)

    @asset_check(
        asset=key,
        name="windows_are_what_was_known",
        partitions_def=partitions,
        blocking=True,
        additional_deps=[tokens],
        description=(
            "What was encoded at each node ends at the newest token known at the node's time, leaves out "
            "none in between, and holds none that became available later."
        ),
    )
    def windows_are_what_was_known(
        context: AssetCheckExecutionContext, datasets: Datasets
    ) -> AssetCheckResult:
        from dataclasses import asdict

        from ehr_assets.embeddings.audit import windows_read

        dataset = datasets.judged(context, key)
        found = windows_read(datasets.used(context.instance, dataset, tokens).path, dataset.path)
        return datasets.judge(dataset, found.ok, asdict(found))

    def judged_states(
        context: AssetCheckExecutionContext,
        datasets: Datasets,
        passed: "Callable[[States], bool]",
        *,
        warns: bool = False,
    ) -> AssetCheckResult:
        from dataclasses import asdict

        from ehr_assets.embeddings.audit import states

        dataset = datasets.judged(context, key)
        dirs = {c: datasets.used(context.instance, dataset, k).path for c, k in nodes_keys.items()}
        found = states(dataset.path, dirs)
        return datasets.judge(dataset, passed(found), asdict(found), warns=warns)

    return [finite_and_complete, all_usable, windows_are_what_was_known]
