"""What can be found out about a recipe before anything is loaded or started; without torch.

What a recipe must be by itself is checked when it is read (`recipe.py`), what it must be to other specs when
the catalog is loaded (`catalog.py`). Here: whether its pretrained backbone is there and can be trained as a
world model, and whether its corpus speaks the backbone's language.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ehr_assets.contracts import SECTIONS
from ehr_assets.corpora.spec import BpeTokenizer, CorpusSpec
from ehr_assets.errors import TrainingError
from ehr_assets.model_folders import AsksForCodeError, refuse_code
from ehr_assets.training.estimate import Shape, shape_of, shape_of_spec
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ConfigBackbone, PretrainedBackbone
from ehr_assets.training.suitable import unsuitable

DELIMITERS = {f"<{slash}{section}>" for section in SECTIONS for slash in ("", "/")}
_CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How transformers names the classes of causal LMs."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass
class Examined:
    """What was found.

    Attributes:
        problems: why the recipe cannot be used, in sentences that name the key.
        doubts: what could not be looked at, or looks odd.
        vocabulary: tokens of the corpus's tokenizer; at most so many while it is not fitted. None: not known.
        shape: of the backbone; None where it is not known here.
    """

    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    vocabulary: int | None = None
    shape: Shape | None = None


def examine(recipe: RecipeSpec, corpus: CorpusSpec | None = None, tokenizer: Path | None = None) -> Examined:
    """Looks at a recipe, its backbone and its tokenizer.

    Args:
        corpus: of the recipe, if it is at hand.
        tokenizer: the corpus's committed tokenizer; without it, what the corpus says is taken for it.
    """
    found = Examined()
    adopted = None
    if corpus and not isinstance(corpus.tokenizer, BpeTokenizer):
        adopted = corpus.tokenizer.path
    if tokenizer:
        known = _vocabulary(tokenizer)
        found.vocabulary = len(known) if known else None
    elif corpus and isinstance(corpus.tokenizer, BpeTokenizer):
        known, found.vocabulary = None, corpus.tokenizer.vocab_size
    else:
        folder = place_of(adopted) if adopted else None
        known = _vocabulary(folder) if folder else None
        found.vocabulary = len(known.keys() | DELIMITERS) if known else None
    if isinstance(recipe.backbone, ConfigBackbone):
        if found.vocabulary:
            found.shape = shape_of_spec(recipe.backbone, found.vocabulary)
        return found
    fitted = tokenizer is None and corpus is not None and isinstance(corpus.tokenizer, BpeTokenizer)
    _look_at_backbone(found, recipe, recipe.backbone)
    _look_at_tokenizer(found, recipe.backbone, known, fitted=fitted, same=adopted == recipe.backbone.path)
    return found


def require_usable(recipe: RecipeSpec, tokenizer: Path) -> None:
    """Before processes are started.

    Raises:
        TrainingError: the recipe cannot be used, for all the reasons that can be known without loading.
    """
    if problems := examine(recipe, tokenizer=tokenizer).problems:
        raise TrainingError(
            "This recipe cannot be trained: " + " ".join(problems),
            where=f"recipe {recipe.name}",
            do=f"Mend what is named above; look at it again with `ehr recipe check {recipe.name}`.",
        )


def place_of(path: str) -> Path | None:
    """The folder of a model: a local one, or what is kept here of a repository on the hub."""
    if Path(path).is_dir():
        return Path(path)
    if not _HUB_NAME.fullmatch(path):
        return None
    from huggingface_hub import try_to_load_from_cache

    kept = try_to_load_from_cache(path, "config.json")
    return Path(kept).parent if isinstance(kept, str) else None


def _look_at_backbone(found: Examined, recipe: RecipeSpec, spec: PretrainedBackbone) -> None:
    folder = place_of(spec.path)
    if folder is None:
        if not _HUB_NAME.fullmatch(spec.path):
            found.problems.append(f"backbone.path: there is no folder {spec.path}.")
        elif os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            found.problems.append(
                f"backbone.path: {spec.path} is neither a folder nor kept here, and HF_HUB_OFFLINE is set."
            )
        else:
            found.doubts.append(
                f"backbone.path: {spec.path} is not here: it is looked for on the hub when training starts, "
                "and nothing can be said of it now."
            )
        return
    config = _config(folder, found)
    if config is None:
        return
    if Path(spec.path).is_dir() and not any(folder.glob("*.safetensors")):
        found.problems.append(f"backbone.path: {spec.path} holds no *.safetensors.")
    try:
        refuse_code(folder)
    except AsksForCodeError as e:
        found.problems.append(f"backbone.path: {spec.path}: {e}.")
    named = config.get("architectures") or []
    if named and not any(name.endswith(_CAUSAL) for name in named):
        found.doubts.append(f"backbone.path: {', '.join(named)} may be no causal language model.")
    for reason in unsuitable(config, recipe.data.max_tokens):
        found.problems.append(f"backbone.path: {reason}.")
    places = config.get("max_position_embeddings")
    if places and recipe.embedding.max_tokens > places:
        found.problems.append(
            f"embedding.max_tokens: the backbone can place {places} tokens, not "
            f"{recipe.embedding.max_tokens}."
        )
    found.shape = shape_of(config, found.vocabulary or 0)
    if found.shape is None:
        found.doubts.append(f"backbone.path: what {config.get('model_type')} needs cannot be estimated here.")
    elif recipe.jepa:
        try:
            recipe.jepa.predictor.size_inside(found.shape.hidden)
        except ValueError as e:
            found.problems.append(f"{e}.")


def _look_at_tokenizer(
    found: Examined,
    spec: PretrainedBackbone,
    corpus: Mapping[str, int] | None,
    *,
    fitted: bool,
    same: bool,
) -> None:
    """Its embeddings mean what its own tokenizer says: the corpus may add the delimiters, nothing else."""
    where = "corpus: its tokenizer"
    do = f"Give the corpus `tokenizer: {{kind: folder, path: {spec.path}}}`."
    if fitted:
        found.problems.append(
            f"{where} is fitted to the corpus, but a pretrained backbone knows its own tokens alone. {do}"
        )
        return
    folder = place_of(spec.path)
    own = _vocabulary(folder) if folder else None
    if corpus is None or own is None:
        if not same and folder:
            found.doubts.append(f"{where} cannot be compared with the backbone's here.")
        return
    differ = sum(corpus.get(token) != i for token, i in own.items())
    added = len(corpus.keys() - own.keys() - DELIMITERS)
    if differ or added:
        found.problems.append(
            f"{where} is not the backbone's: {differ} of its {len(own)} tokens are missing or numbered "
            f"otherwise, and {added} are new beside the delimiters. {do}"
        )


def _config(folder: Path, found: Examined) -> Mapping[str, Any] | None:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found.problems.append(f"backbone.path: {folder} holds no config.json.")
        return None
    except (OSError, ValueError):
        found.problems.append(f"backbone.path: {file} cannot be read as JSON.")
        return None
    return config if isinstance(config, dict) else None


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Token → id of a folder's fast tokenizer; None where it has none that can be read."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True) if file.is_file() else None
    except Exception:  # the library has no error of its own
        return None
