"""The licence of a backbone, as far as its recipe or its own folder says."""

from pathlib import Path
from typing import Any

import yaml

from ehr_assets.training.recipe_parts import ConfigBackbone, PretrainedBackbone

FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


def licence_of(backbone: ConfigBackbone | PretrainedBackbone) -> str:
    """One sentence: from the recipe, else the front matter of the folder's README.md, else a licence file."""
    if isinstance(backbone, ConfigBackbone):
        return "The backbone was drawn at random here; no third party's licence applies to it."
    if backbone.licence:
        return f"The backbone's licence is {backbone.licence} (by the recipe)."
    card = _own_file(backbone.path, "README.md")
    named = _front_matter(card) if card else {}
    if licence := named.get("license_name") or named.get("license"):
        more = f" ({named['license_link']})" if named.get("license_link") else ""
        return f"The backbone's licence is {licence}{more} (by its own README.md)."
    for name in FILES:
        if file := _own_file(backbone.path, name):
            return f"The backbone's licence is in its `{name}`, which begins: {_first_line(file)!r}."
    return "The backbone's licence is unknown: ask its publisher before you use or pass on these weights."


def _own_file(path: str, name: str) -> Path | None:
    """A file of a local folder, or of what is kept here of a repository on the hub."""
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, name)
    except HFValidationError:  # neither a folder nor a name on the hub
        return None
    return Path(found) if isinstance(found, str) else None


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes; empty where there is none to be read."""
    text = card.read_text(encoding="utf-8", errors="replace")
    parts = text.split("---\n", 2)
    try:
        found = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip()), "")[:100]
