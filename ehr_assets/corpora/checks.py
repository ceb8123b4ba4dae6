"""Dagster checks of this room: fitted on train only, subjects in their splits, tokens in order, no future."""

from collections.abc import Mapping
from pathlib import Path

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, AssetKey, asset_check

from ehr_assets.corpora.assets import token_corpus_key, tokenizer_key
from ehr_assets.corpora.spec import BpeTokenizer, CorpusSpec
from ehr_assets.meds.assets import meds_events_key, subject_splits_key
from resources.storage import Datasets


def corpus_checks(corpus: CorpusSpec) -> list[AssetChecksDefinition]:
    splits_keys = {cohort: subject_splits_key(cohort) for cohort in corpus.cohorts}
    meds_keys = {cohort: meds_events_key(cohort) for cohort in corpus.cohorts}
    tokenizer, tokens = tokenizer_key(corpus.name), token_corpus_key(corpus.name)

    @asset_check(
        asset=tokenizer,
        name="fitted_on_train_only",
        blocking=True,
        additional_deps=[*meds_keys.values(), *splits_keys.values()],
        description="Fitted on the train subjects of its cohorts, all of them and no others.",
    )
    def fitted_on_train_only(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.leakage.fits import fitted_on_subjects, read_fitted_on
        from ehr_assets.meds.reading import train_subjects

        dataset = datasets.latest(context.instance, tokenizer)

        def dirs(keys: Mapping[str, AssetKey]) -> dict[str, Path]:
            return {c: datasets.used(context.instance, dataset, key).path for c, key in keys.items()}

        claim = read_fitted_on(dataset.path)
        if not isinstance(corpus.tokenizer, BpeTokenizer):
            subjects = claim.get("n_subjects", -1)
            return datasets.judge(dataset, subjects == 0, {"subjects": subjects})
        finding = fitted_on_subjects(claim, train_subjects(dirs(meds_keys), dirs(splits_keys)))
        return datasets.judge(dataset, finding.ok, finding.counts, description=finding.problem)

    @asset_check(
        asset=tokens,
        name="subjects_in_their_splits",
        blocking=True,
        additional_deps=list(splits_keys.values()),
        description="Every subject's tokens lie in the file of the split it was given, once.",
    )
    def subjects_in_their_splits(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        import polars as pl

        from ehr_assets.corpora.audit import subjects_by_file
        from ehr_assets.leakage.subjects import splits_agree

        dataset = datasets.latest(context.instance, tokens)
        found = subjects_by_file(dataset.path)
        findings = [
            splits_agree(
                found.filter(pl.col("cohort") == cohort),
                pl.read_parquet(
                    datasets.used(context.instance, dataset, key).path / "subject_splits.parquet"
                ),
            )
            for cohort, key in splits_keys.items()
        ]
        return datasets.judge(
            dataset, all(f.ok for f in findings), {"subjects": sum(f.subjects for f in findings)}
        )

    @asset_check(
        asset=tokens,
        name="tokens_in_order_of_availability",
        blocking=True,
        description=(
            "Tokens stand in the order they became known, so the past of any t is a prefix."
            if corpus.format == "tagged"
            else "Every version of the text is read before it is replaced."
        ),
    )
    def tokens_in_order_of_availability(
        context: AssetCheckExecutionContext, datasets: Datasets
    ) -> AssetCheckResult:
        from ehr_assets.corpora.audit import records_out_of_order

        dataset = datasets.latest(context.instance, tokens)
        records, wrong = records_out_of_order(dataset.path)
        return datasets.judge(dataset, wrong == 0, {"records": records, "records_out_of_order": wrong})

    @asset_check(
        asset=tokens,
        name="same_text_without_the_future",
        blocking=True,
        additional_deps=[tokenizer, *meds_keys.values()],
        description=(
            "The tokens that sampled records show at sampled instants are those that their events give when "
            "everything that became available later is deleted."
        ),
    )
    def same_text_without_the_future(
        context: AssetCheckExecutionContext, datasets: Datasets
    ) -> AssetCheckResult:
        from ehr_assets.corpora.audit import texts_that_saw_the_future

        dataset = datasets.latest(context.instance, tokens)
        compared, wrong = texts_that_saw_the_future(
            corpus,
            dataset.path,
            datasets.used(context.instance, dataset, tokenizer).path,
            {c: datasets.used(context.instance, dataset, k).path for c, k in meds_keys.items()},
        )
        return datasets.judge(dataset, wrong == 0, {"texts": compared, "texts_that_differ": wrong})

    return [
        fitted_on_train_only,
        subjects_in_their_splits,
        tokens_in_order_of_availability,
        same_text_without_the_future,
    ]
