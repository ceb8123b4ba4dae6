"""Dagster assets of this room: `<recipe>/checkpoint`."""

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.corpora.assets import token_corpus_key, tokenizer_key
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version, git_revision
from ehr_assets.training.recipe import RecipeSpec
from resources.launcher import DeepSpeedLauncher
from resources.storage import Datasets, Shown, Stats, Step, asset_name
from resources.tracking import MlflowTracking


def checkpoint_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, "checkpoint"])


def training_assets(recipe: RecipeSpec) -> list[AssetsDefinition]:
    corpus, tokenizer = token_corpus_key(recipe.corpus), tokenizer_key(recipe.corpus)
    continued = [checkpoint_key(recipe.continues)] if recipe.continues else []

    @asset(
        key=checkpoint_key(recipe.name),
        deps=[corpus, tokenizer, *continued],
        group_name=recipe.name,
        kinds={"torch", "deepspeed", "huggingface"},
        pool="gpu",
        code_version=code_version(["training/loop.py"], recipe.training_hash()),
        description=recipe.title,
    )
    def checkpoint(
        context: AssetExecutionContext,
        datasets: Datasets,
        launcher: DeepSpeedLauncher,
        tracking: MlflowTracking,
    ) -> MaterializeResult:
        def build(step: Step) -> Stats:
            inputs = {name: d.data_version for name, d in step.inputs.items()}
            tags = {
                "dagster.run_id": step.run_id,
                "git.revision": git_revision() or "none",
                **{f"data_version.{name.replace('/', '.')}": v for name, v in inputs.items()},
            }
            with tracking.run(recipe.name, tags, recipe.training_settings()) as run_id:
                job = {
                    "recipe": recipe.model_dump(mode="json"),
                    "token_corpus": str(step.inputs[asset_name(corpus)].path),
                    "tokenizer": str(step.inputs[asset_name(tokenizer)].path),
                    "out_dir": str(step.out),
                    "work_dir": str(step.work.open()),
                    "start_from": str(step.inputs[asset_name(continued[0])].path) if continued else None,
                    "tracking": {"uri": tracking.uri, "run_id": run_id},
                    "facts": {f"data version of {name}": v for name, v in inputs.items()},
                }
                stats = launcher.train(context, job, num_processes=recipe.engine.num_processes)
            return {**stats, "mlflow_run_id": run_id}

        return datasets.materialize(
            context,
            build,
            config=recipe.training_settings(),
            seed=recipe.seed,
            volatile=("timing.jsonl", "resume/*"),
            shown=Shown(more=_curve),
        )

    return [checkpoint]


def _curve(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.training.curves import curve_png

    picture = f"![training curve](data:image/png;base64,{curve_png(dataset.path)})"
    return {"training curve": MetadataValue.md(picture)}
