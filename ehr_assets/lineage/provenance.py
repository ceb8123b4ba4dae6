"""What a run is recorded with beside the manifests: its settings, and the packages that were installed.

<home>/provenance/runs/<run id>.json     overrides, further specs, versions: what `ehr reproduce` starts from
<home>/provenance/packages/<hash>.txt    name==version, a line each; the manifests' `lock_hash` names the file
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.hashing import git_revision, installed_packages, lock_hash

SPEC_ENDINGS = (".yaml", ".yml")


class RunRecord(BaseModel):
    """The settings of one run.

    Attributes:
        overrides: `EHR_OVERRIDES`, laid over the spec files.
        specs: the files of the directories in `EHR_SPECS`, in order: path below the directory → text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    run_id: str
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    specs: list[dict[str, str]] = Field(default_factory=list)
    lock_hash: str
    git_revision: str | None = None


def keep_run(
    home: Path, run_id: str, overrides: Mapping[str, Mapping[str, Any]], spec_dirs: tuple[Path, ...]
) -> None:
    """Writes the record of a run that begins, and the packages it runs with where they are not known yet."""
    record = RunRecord(
        run_id=run_id,
        overrides={name: dict(given) for name, given in overrides.items()},
        specs=[_specs_in(folder) for folder in spec_dirs],
        lock_hash=lock_hash(),
        git_revision=git_revision(),
    )
    _write(_run_file(home, run_id), record.model_dump_json(indent=1) + "\n")
    packages = _packages_file(home, record.lock_hash)
    if not packages.exists():
        _write(packages, "".join(f"{line}\n" for line in installed_packages()))


def read_run(home: Path, run_id: str | None) -> RunRecord | None:
    """The record of a run; None of one made before records were kept.

    Raises:
        DatasetError: it cannot be read.
    """
    path = _run_file(home, run_id or "none")
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as e:
        raise DatasetError(
            "The settings that a run was recorded with cannot be read.",
            where=str(path),
            do="Restore the file from a backup.",
        ) from e


def read_packages(home: Path, lock: str) -> list[str] | None:
    """``name==version`` of a lock hash, None where they were not kept."""
    path = _packages_file(home, lock)
    return path.read_text(encoding="utf-8").split() if path.is_file() else None


def _specs_in(folder: Path) -> dict[str, str]:
    found = (p for p in sorted(folder.rglob("*")) if p.suffix in SPEC_ENDINGS and p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in found}


def _run_file(home: Path, run_id: str) -> Path:
    return home / "provenance" / "runs" / f"{run_id}.json"


def _packages_file(home: Path, lock: str) -> Path:
    return home / "provenance" / "packages" / f"{lock}.txt"


def _write(path: Path, text: str) -> None:
    """At once or not at all, for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.rename(path)
