"""Dagster assets of this room: `<corpus>/tokenizer` and `<corpus>/token_corpus`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version
from ehr_assets.meds.assets import meds_events_key, subject_splits_key
from resources.storage import Datasets, Shown, Stats, Step, asset_name


def tokenizer_key(corpus: str) -> AssetKey:
    return AssetKey([corpus, "tokenizer"])


def token_corpus_key(corpus: str) -> AssetKey:
    return AssetKey([corpus, "token_corpus"])


def input_dirs(step: Step, cohorts: list[str], key: Callable[[str], AssetKey]) -> Mapping[str, Path]:
    """Cohort → directory of that cohort's dataset `key`."""
    return {cohort: step.inputs[asset_name(key(cohort))].path for cohort in cohorts}


def corpus_assets(corpus: CorpusSpec) -> list[AssetsDefinition]:
    meds = [meds_events_key(c) for c in corpus.cohorts]
    splits = [subject_splits_key(c) for c in corpus.cohorts]
    config = corpus.model_dump(mode="json")

    @asset(
        key=tokenizer_key(corpus.name),
        deps=[*meds, *splits],
        group_name=corpus.name,
        kinds={"huggingface"},
        code_version=code_version(["corpora/tokenizer.py"], corpus.config_hash()),
        description=(
            "Byte-level BPE with the delimiter tokens of SMB, Table 1; fitted on train subjects."
            if corpus.tokenizer.kind == "bpe"
            else "The tokenizer of a backbone, with the delimiter tokens of SMB, Table 1; nothing is fitted."
        ),
    )
    def tokenizer(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.corpora.tokenizer import train_tokenizer

        def build(step: Step) -> Stats:
            meds_dirs = input_dirs(step, corpus.cohorts, meds_events_key)
            splits_dirs = input_dirs(step, corpus.cohorts, subject_splits_key)
            return train_tokenizer(corpus, meds_dirs, splits_dirs, step.out, step.progress, step.machine)

        return datasets.materialize(context, build, config=config)

    @asset(
        key=token_corpus_key(corpus.name),
        deps=[*meds, tokenizer_key(corpus.name)],
        group_name=corpus.name,
        kinds={"polars", "arrow"},
        code_version=code_version(["corpora/shards.py"], corpus.config_hash()),
        description=(
            "Every subject as tokens in the order they became known, each with its event and times."
            if corpus.format == "tagged"
            else "Every subject as tokens of all versions of its text, each with its event and times."
        ),
    )
    def token_corpus(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.corpora.shards import write_corpus

        def build(step: Step) -> Stats:
            meds_dirs = input_dirs(step, corpus.cohorts, meds_events_key)
            tokenizer_dir = step.inputs[asset_name(tokenizer_key(corpus.name))].path
            return write_corpus(corpus, meds_dirs, tokenizer_dir, step.out, step.progress, step.machine)

        return datasets.materialize(
            context, build, config=config, shown=Shown(schema_of="train", more=_lengths)
        )

    return [tokenizer, token_corpus]


def _lengths(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.corpora.statistics import lengths_png, tables

    picture = f"![tokens per subject](data:image/png;base64,{lengths_png(dataset.path)})"
    shown = {name: MetadataValue.md(table) for name, table in tables(dataset.path).items()}
    return {**shown, "lengths": MetadataValue.md(picture)}
