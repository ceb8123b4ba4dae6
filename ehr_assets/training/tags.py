"""The way back to us: what a training and its checkpoint are tagged with where others keep them (MLflow), and
what the model card says of its origins."""

from collections.abc import Mapping

from ehr_assets.lineage.manifest import Manifest
from ehr_assets.training.recipe import RecipeSpec


def run_tags(
    recipe: RecipeSpec, inputs: Mapping[str, str], run_id: str, revision: str | None
) -> dict[str, str]:
    """Of a training that begins.

    Args:
        inputs: asset → data version of what it is trained on.
        run_id: Dagster's.
        revision: git's.
    """
    return {
        "recipe": recipe.name,
        "recipe.training_hash": recipe.training_hash(),
        "corpus": recipe.corpus,
        **({"continues": recipe.continues} if recipe.continues else {}),
        "dagster.run_id": run_id,
        "git.revision": revision or "none",
        **{f"data_version.{name.replace('/', '.')}": version for name, version in inputs.items()},
    }


def card_facts(inputs: Mapping[str, str], run_id: str, revision: str | None, code: str) -> dict[str, str]:
    """Of a training that begins, for the model card. `code`: the asset's code version; others as above."""
    return {
        **{f"data version of {name}": version for name, version in inputs.items()},
        "Dagster run": run_id,
        "git revision": revision or "none",
        "code version": code,
    }


def version_tags(recipe: RecipeSpec, manifest: Manifest, dataset: str) -> dict[str, str]:
    """Of a committed checkpoint; all but its place is read off its manifest.

    Args:
        dataset: where it lies below the storage root.
    """
    made_from = {entry.asset: entry.data_version for entry in manifest.inputs}
    return {
        **run_tags(recipe, made_from, manifest.run_id or "none", manifest.git_revision),
        "asset": manifest.asset,
        "dataset": dataset,
        "data_version": manifest.data_version,
        "code_version": manifest.code_version,
    }
