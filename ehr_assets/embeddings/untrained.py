"""The control: a recipe's backbone as it was before any training, in an encoder's place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_assets.training.recipe import RecipeSpec


@dataclass(frozen=True)
class Untrained:
    """What representation the architecture gives for free.

    Of a backbone from a configuration, the weights drawn from its seed; of a pretrained one, the base model
    without any adapter.

    Args:
        recipe: whose backbone.
        tokenizer_dir: the tokenizer of the recipe's corpus.
    """

    recipe: RecipeSpec
    tokenizer_dir: Path

    def load(self) -> Any:
        """A causal LM of transformers, on CPU. TrainingError: it cannot be had, or is not the corpus's."""
        from ehr_assets.model_folders import load_tokenizer
        from ehr_assets.training.backbones import new_backbone

        return new_backbone(self.recipe, load_tokenizer(self.tokenizer_dir))

    def __str__(self) -> str:
        return f"the untrained backbone of {self.recipe.name}"
