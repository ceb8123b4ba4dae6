"""Dagster assets of this room: `<recipe>/checkpoint`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.corpora.assets import input_dirs, token_corpus_key, tokenizer_key
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.errors import TrainingError
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version, git_revision
from ehr_assets.lineage.manifest import MANIFEST_NAME, Manifest
from ehr_assets.lineage.subjects import TRAINED, TUNED, Roles
from ehr_assets.nodes.assets import decision_nodes_key
from ehr_assets.training.examine import require_usable
from ehr_assets.training.history import VOLATILE
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.tags import card_facts, run_tags, version_tags
from resources.launcher import DeepSpeedLauncher
from resources.points import Points
from resources.recorded import DATASET_KEY
from resources.shown import ADDRESS_KEY
from resources.storage import Datasets, Shown, Stats, Step, asset_name
from resources.tracking import MlflowTracking


def checkpoint_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, "checkpoint"])


def training_assets(points: Points, on: CorpusSpec) -> list[AssetsDefinition]:
    recipe = points.recipe
    corpus, tokenizer = token_corpus_key(on.name), tokenizer_key(on.name)
    cut_at = on.cohorts if recipe.data.cuts.nodes else []
    continued = [checkpoint_key(recipe.continues)] if recipe.continues else []

    @asset(
        key=checkpoint_key(recipe.name),
        deps=[corpus, tokenizer, *map(decision_nodes_key, cut_at), *continued],
        group_name=recipe.name,
        kinds={"torch", "deepspeed", "huggingface"},
        pool="gpu",
        code_version=code_version(["training/prepare.py"], recipe.training_hash()),
        description=recipe.title,
        partitions_def=points.partitions,
        metadata=points.metadata(RecipeSpec.training_settings),
    )
    def checkpoint(
        context: AssetExecutionContext,
        datasets: Datasets,
        launcher: DeepSpeedLauncher,
        tracking: MlflowTracking,
    ) -> MaterializeResult:
        recipe = points.at(context)

        def trained_on(_: Dataset, inputs: Mapping[str, Dataset]) -> Roles:
            from ehr_assets.corpora.reader import TokenCorpus
            from ehr_assets.training.examples import Examples, trained_subjects

            tokens = TokenCorpus(inputs[asset_name(corpus)].path)
            tuning = Examples(tokens, "tuning", recipe.data, 1)
            return {TRAINED: trained_subjects(tokens, recipe), TUNED: tuning.subject_ids(tuning.rows)}

        def build(step: Step) -> Stats:
            require_usable(recipe, step.inputs[asset_name(tokenizer)].path)
            inputs = {name: d.data_version for name, d in step.inputs.items()}
            revision = git_revision()
            tags = run_tags(recipe, inputs, step.run_id, revision)
            code = context.assets_def.specs_by_key[context.asset_key].code_version or ""
            work = step.work.open()
            with tracking.run(recipe.name, tags, recipe.training_settings(), work=work) as run_id:
                job = {
                    "recipe": recipe.model_dump(mode="json"),
                    "token_corpus": str(step.inputs[asset_name(corpus)].path),
                    "tokenizer": str(step.inputs[asset_name(tokenizer)].path),
                    "nodes": {c: str(d) for c, d in input_dirs(step, cut_at, decision_nodes_key).items()},
                    "out_dir": str(step.out),
                    "work_dir": str(work),
                    "start_from": str(step.inputs[asset_name(continued[0])].path) if continued else None,
                    "tracking": tracking.told(run_id),
                    "facts": card_facts(inputs, step.run_id, revision, code),
                }
                stats = launcher.train(context, job, num_processes=recipe.engine.num_processes)
            return {**stats, "mlflow_run_id": run_id}

        result = datasets.materialize(
            context,
            build,
            config=recipe.training_settings(),
            seed=recipe.seed,
            volatile=VOLATILE,
            shown=Shown(more=_curves),
            subjects=trained_on,
        )
        return registered(context, tracking, recipe, result)

    return [checkpoint]


def registered(
    context: AssetExecutionContext, tracking: MlflowTracking, recipe: RecipeSpec, result: MaterializeResult
) -> MaterializeResult:
    """The committed checkpoint as a model version. A registry that fails costs no training: that is said, and
    the next run that keeps the checkpoint tries again."""
    shown: dict[str, Any] = dict(result.metadata or {})
    folder, dataset = Path(shown["path"].value), str(shown[DATASET_KEY].value)
    manifest = Manifest.read(folder / MANIFEST_NAME)
    run_id = str(manifest.stats["mlflow_run_id"])
    try:
        tags = version_tags(recipe, manifest, dataset)
        address = str(shown.get(ADDRESS_KEY, ""))
        version = tracking.register(recipe.name, run_id, folder, tags, address)
        said = f"{recipe.name}/{version}"
    except TrainingError as e:
        context.log.warning(f"The checkpoint is committed, but was not registered. {e}")
        said = f"not registered: {e.what}"
    return result._replace(metadata={**shown, "model version": said})


def _curves(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.training.curves import curves_png

    picture = f"![course of the training](data:image/png;base64,{curves_png(dataset.path)})"
    return {"course of the training": MetadataValue.md(picture)}
