"""Paths that specs, manifests and Dagster's records name: below their root, or refused."""

import re
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_WILD = re.compile(r"[*?\[\]{}]")


def leads_out(path: str) -> bool:
    """Whether a relative path, as it is written, may stand for something that is not below its root."""
    return (
        not path
        or bool(_CONTROL.search(path) or _DRIVE.match(path))
        or "\\" in path
        or path.startswith(("/", "~"))
        or any(part in ("", ".", "..") for part in path.split("/"))
    )


def relative_file(path: str) -> str:
    """A validator: one file below the spec's own folder. ValueError where it is none."""
    if leads_out(path) or _WILD.search(path):
        raise ValueError("it must be a path below the folder of this file, with forward slashes")
    return path


def model_source(path: str) -> str:
    """A validator: a model's folder or its name on the hub; no address, and nothing above where one stands.

    ValueError where it is none.
    """
    if _CONTROL.search(path) or "://" in path or ".." in Path(path).parts:
        raise ValueError("it must be a folder (without `..`) or a name on the hub")
    return path


def is_inside(root: Path, path: Path) -> bool:
    """Whether a path is below a root when all links are followed."""
    return path.resolve().is_relative_to(root.resolve())
