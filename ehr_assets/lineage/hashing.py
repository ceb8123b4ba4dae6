"""Hashes of files, file sets, sources and installed packages."""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

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


@cache
def sources_hash(*rooms: str) -> str:
    """Hash of the Python sources of the named rooms (``"meds"``) or files (``"cohorts/readers.py"``).

    Checks are left out: a changed check never changes the data that it judges.
    """
    files: set[Path] = set()
    for room in rooms:
        path = PACKAGE_ROOT / room
        if not path.exists():
            raise FileNotFoundError(f"no such room: {room}")
        files |= {path} if path.is_file() else set(path.rglob("*.py"))
    keep = sorted(f for f in files if f.name != "checks.py")
    return combined_hash(x for f in keep for x in (f.relative_to(PACKAGE_ROOT).as_posix(), file_sha256(f)))


def code_version(rooms: Iterable[str], config_hash: str) -> str:
    """``<sources>.<config>``: says at a glance whether the code or the spec of an asset changed."""
    return f"{sources_hash(*rooms)[:12]}.{config_hash[:12]}"


@cache
def lock_hash() -> str:
    """Hash of the names and versions of all installed distributions."""
    return combined_hash(
        sorted({f"{d.name.lower()}=={d.version}" for d in metadata.distributions() if d.name})
    )


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
