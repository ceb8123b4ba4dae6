"""Hashes of files, file sets, sources and installed packages."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE_ROOT = Path(__file__).resolve().parent.parent


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def combined_hash(parts: Iterable[str]) -> str:
    """sha256 over strings in the order given, unambiguous about where one ends."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def settings_hash(settings: Mapping[str, Any]) -> str:
    """sha256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@cache
def sources_hash(*entries: str) -> str:
    """Hash of the named files (``"meds/extract.py"``) and of every module of the project that they import."""
    files = sorted(set().union(*(imported_files(entry) for entry in entries)))
    return combined_hash(x for f in files for x in (f.relative_to(PACKAGE_ROOT).as_posix(), file_sha256(f)))


@cache
def imported_files(entry: str) -> frozenset[Path]:
    """A file of the package and all that it imports from the package, however far off.

    Imports are followed by reading, not by importing, in functions too. Left out is what shapes no data: the
    Dagster skins, errors, progress, lineage itself.
    """
    found: set[Path] = set()
    todo = [PACKAGE_ROOT / entry]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += _imported(path)
    return frozenset(found)


def code_version(entries: Iterable[str], config_hash: str) -> str:
    """``<sources>.<config>``: says at a glance whether the code or the spec of an asset changed.

    Args:
        entries: the modules that an asset's body calls, as for `sources_hash`; templates may be among them.
    """
    return f"{sources_hash(*entries)[:12]}.{config_hash[:12]}"


_IMPORT = re.compile(
    r"^[ \t]*(?:from (ehr_assets[\w.]*) import (\([^)]*\)|[^\n]*)|import (ehr_assets[\w.]*))",
    re.MULTILINE,
)
_SHAPES_NO_DATA = {
    *(f"{name}.py" for name in ("errors", "progress", "settings", "catalog", "build", "definitions")),
    "assets.py",
    "checks.py",
}


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """The files of this package that a Python file imports, less those that shape no data."""
    if path.suffix != ".py":
        return ()
    found = set()
    for base, names, whole in _IMPORT.findall(path.read_text(encoding="utf-8")):
        folder = PACKAGE_ROOT.parent / (base or whole).replace(".", "/")
        members = [name.split(" as ")[0].strip(" ()\n") for name in names.split(",")]
        candidates = [folder.with_suffix(".py"), *(folder / f"{name}.py" for name in members if name)]
        found |= {c for c in candidates if c.is_file()}
    shaping = (f for f in found if f.name not in _SHAPES_NO_DATA and f.parent.name != "lineage")
    return tuple(sorted(shaping))


@cache
def installed_packages() -> tuple[str, ...]:
    """``name==version`` of all installed distributions, sorted."""
    return tuple(sorted({f"{d.name.lower()}=={d.version}" for d in metadata.distributions() if d.name}))


@cache
def lock_hash() -> str:
    """Hash of the names and versions of all installed distributions."""
    return combined_hash(installed_packages())


@cache
def git_revision() -> str | None:
    """HEAD of the checkout that this code runs from, ``-dirty`` if changed; None outside a checkout."""
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=PACKAGE_ROOT, env=env, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
