"""Folders of models and tokenizers that others made: safetensors and JSON are read, code is never run.

A pickle runs what it says when it is loaded, and a configuration can name Python modules and kernels to
fetch. There is no setting that allows either: convert such a model once, where you trust it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".msgpack", ".npz")
_SAFE = ".safetensors"
_CONFIGS = ("config.json", "tokenizer_config.json", "adapter_config.json", "processor_config.json")


class AsksForCodeError(ValueError):
    """A model's folder would not be loaded without running code of its maker's."""


def refuse_code(path: str | Path, *, weights: bool = True) -> None:
    """Raises AsksForCodeError where a folder asks for code of its own or, with `weights`, has pickles alone.

    Of what is no folder here (a name on the hub) nothing is said: transformers is told when it loads.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    if reason := _code_in(folder) or (_pickles_in(folder) if weights else None):
        raise AsksForCodeError(reason)


def _code_in(folder: Path) -> str | None:
    for name in _CONFIGS:
        config = _mapping(folder / name)
        if any(_keys(config, "auto_map")):
            return f"{name} names code of its own (auto_map), which is not run"
        if any("/" in str(value) for key, value in config.items() if key.endswith("_implementation")):
            return f"{name} names a kernel to fetch from the hub, which is not run"
    return None


def _pickles_in(folder: Path) -> str | None:
    named = str(_mapping(folder / "config.json").get("transformers_weights") or _SAFE)
    if not named.endswith((_SAFE, f"{_SAFE}.index.json")):
        return "config.json names weights that are not safetensors"
    for index in sorted(folder.glob(f"*{_SAFE}.index.json")):
        for shard in set(_mapping(index).get("weight_map", {}).values()):
            if not str(shard).endswith(_SAFE) or Path(str(shard)).name != shard:
                return f"{index.name} names a shard that is no safetensors file beside it"
    wanted = "adapter_model" if (folder / "adapter_config.json").is_file() else "*"
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
    if pickled and not any(folder.glob(f"{wanted}{_SAFE}")):
        return (
            f"its weights are no safetensors but pickles ({pickled[0]}), which run code when they are loaded"
        )
    return None


def load_tokenizer(path: str | Path) -> Any:
    """What transformers makes of a tokenizer's folder (or name on the hub), without running code of its own.

    Raises:
        ValueError, OSError: there is none, or it asks for code (AsksForCodeError).
    """
    from transformers import AutoTokenizer

    refuse_code(path, weights=False)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def _mapping(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # whoever needs it says so
    return found if isinstance(found, dict) else {}


def _keys(config: Mapping[str, Any], key: str) -> Iterator[Any]:
    """What stands under a key, also in parts of a configuration, where it is not empty."""
    for name, value in config.items():
        if name == key and value:
            yield value
        elif isinstance(value, Mapping):
            yield from _keys(value, key)
