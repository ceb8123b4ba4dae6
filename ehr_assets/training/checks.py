"""Dagster checks of this room: trained on train subjects only, finite and falling loss, no collapse."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.corpora.assets import token_corpus_key
from ehr_assets.training.assets import checkpoint_key
from resources.points import Points
from resources.storage import Datasets


def training_checks(points: Points) -> list[AssetChecksDefinition]:
    recipe, partitions = points.recipe, points.partitions
    key, tokens = checkpoint_key(recipe.name), token_corpus_key(recipe.corpus)

    @asset_check(
        asset=key,
        name="fitted_on_train_only",
        partitions_def=partitions,
        blocking=True,
        additional_deps=[tokens],
        description="Examples were drawn from the corpus' train subjects and no others.",
    )
    def fitted_on_train_only(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.corpora.reader import TokenCorpus
        from ehr_assets.leakage.fits import fitted_on_subjects, read_fitted_on
        from ehr_assets.training.examples import trained_subjects

        dataset = datasets.judged(context, key)
        corpus = TokenCorpus(datasets.used(context.instance, dataset, tokens).path)
        subjects = trained_subjects(corpus, points.at(context))
        finding = fitted_on_subjects(read_fitted_on(dataset.path), subjects)
        return datasets.judge(dataset, finding.ok, finding.counts, description=finding.problem)

    @asset_check(
        asset=key,
        name="losses_finite",
        partitions_def=partitions,
        blocking=True,
        description="Every training and tuning loss is finite.",
    )
    def losses_finite(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        import math

        from ehr_assets.training.history import read_history

        dataset = datasets.judged(context, key)
        losses = [
            v
            for row in read_history(dataset.path)
            for v in (row.get("loss"), row.get("tuning_loss"), *row.get("losses", {}).values())
            if v is not None
        ]
        bad = sum(not math.isfinite(v) for v in losses)
        return datasets.judge(dataset, bool(losses) and not bad, {"losses": len(losses), "not_finite": bad})

    @asset_check(
        asset=key,
        name="tuning_loss_fell",
        partitions_def=partitions,
        description="The last phase's last tuning loss is below its first training loss (a warning only).",
    )
    def tuning_loss_fell(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.training.history import read_history, steps, tunings

        dataset = datasets.judged(context, key)
        # Of one phase: another may weigh its objectives otherwise.
        rows = [
            row for row in read_history(dataset.path) if row["phase"] == points.at(context).phases[-1].name
        ]
        first = next((row["loss"] for row in steps(rows)), float("nan"))
        last = next((row["tuning_loss"] for row in reversed(tunings(rows))), float("nan"))
        return datasets.judge(
            dataset, last < first, {"first_loss": first, "last_tuning_loss": last}, warns=True
        )

    @asset_check(
        asset=key,
        name="representations_not_collapsed",
        blocking=True,
        partitions_def=partitions,
        description="The target encoder's states differ from token to token, in many directions.",
    )
    def representations_not_collapsed(
        context: AssetCheckExecutionContext, datasets: Datasets
    ) -> AssetCheckResult:
        from ehr_assets.training.collapse import judge_collapse
        from ehr_assets.training.history import read_history

        dataset = datasets.judged(context, key)
        if points.at(context).jepa is None:
            said = "Not applicable: no phase trains towards a target encoder."
            return datasets.judge(dataset, True, description=said)
        found = judge_collapse(read_history(dataset.path), dataset.manifest.stats.get("selected_step"))
        return datasets.judge(dataset, found.ok, found.figures, description=found.problem)

    return [fitted_on_train_only, losses_finite, tuning_loss_fell, representations_not_collapsed]
