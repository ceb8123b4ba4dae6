"""Making a checkpoint again: its chain from the raw tables, in a home of its own, with the recorded settings.

The chain runs in a process of its own (`reproducing.py`), since definitions load once per process and those
that are wanted are made from other settings.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.closure import Closure, Node, closure_of
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.dossier import training_conditions
from ehr_assets.lineage.guards import OVERRIDE_VARIABLE
from ehr_assets.lineage.hashing import git_revision, lock_hash
from ehr_assets.lineage.manifest import MANIFEST_NAME, Manifest
from ehr_assets.lineage.provenance import RunRecord, read_run
from ehr_assets.settings import NOTIFY_VARIABLE, POSTGRES_VARIABLE, PROJECT_ROOT, TRACKING_VARIABLE, Settings
from jobs.lineage import located_anyhow
from resources.object_store import open_store

REQUEST, OUTCOME = "request.json", "outcome.json"


@dataclass
class Reproduction:
    """What came of it: asset → whether its content is the recorded one, inputs first.

    `first`: the first that is not, with its files that differ; None where all agree. `home`: where it was
    made.
    """

    home: Path
    agrees: dict[str, bool] = field(default_factory=dict)
    first: str | None = None
    notes: list[str] = field(default_factory=list)


def reproduce_closure(
    settings: Settings, name: str, console: Console, *, anyway: bool = False, home: Path | None = None
) -> Reproduction:
    """Reruns the closure of a dataset and compares content hashes.

    Args:
        anyway: even where code, specs or packages are not those recorded; they are then in the notes.
        home: made and kept; by default a temporary one, kept only where something differs.

    Raises:
        DatasetError: there is no such dataset; part of its closure is gone; code, specs or packages are not
            those recorded; the directory is not empty; or the chain did not run to its end.
    """
    store = open_store(settings.home, settings.remote)
    closure = closure_of(store, located_anyhow(settings, name))
    itself = closure.itself.manifest
    assert itself is not None
    if gone := [n.asset for n in closure.nodes if n.manifest is None]:
        raise DatasetError(
            f"Parts of what it was made from are gone, so nothing can be compared: {', '.join(gone)}.",
            where=closure.itself.dataset,
            do="Restore them from a backup.",
        )
    record = read_run(settings.home, itself.run_id)
    place = _empty(home) if home else Path(tempfile.mkdtemp(prefix="ehr-reproduce-"))
    done, work = Reproduction(place / "home"), place / "work"
    work.mkdir(mode=0o700)
    if record is None:
        done.notes.append("The run's settings were not kept; today's are used.")
    done.notes += _elsewhere(closure)
    env = _environment(closure, record, work, done.home) | _threads(store, closure)
    outcome = _rerun(closure, work, env, anyway=anyway)
    refused = [*_different_packages(closure), *outcome["code"]]
    if refused and not anyway:
        shutil.rmtree(place, ignore_errors=home is None)
        raise DatasetError(
            "It would not be made by what is recorded:\n    " + "\n    ".join(refused),
            where=itself.asset,
            do="Check out the recorded git revision, install the recorded packages and run again; or add "
            "--anyway to compare all the same.",
        )
    done.notes += refused
    if outcome["failed"]:
        raise DatasetError(
            f"The chain did not run to its end: {outcome['failed']}",
            where=str(done.home),
            do="Mend what is named, take the directory away and run again.",
        )
    _compare(store, closure, outcome["made"], done)
    AuditLog(settings.home).append(
        "reproduced",
        {
            "asset": itself.asset,
            "data_version": itself.data_version,
            "datasets": len(done.agrees),
            "differ": [asset for asset, agrees in done.agrees.items() if not agrees],
            "anyway": bool(refused),
        },
    )
    if not done.first and home is None:
        shutil.rmtree(place, ignore_errors=True)
    return done


def _different_packages(closure: Closure) -> list[str]:
    """One line per lock that is not the installed one, naming the first dataset that was made with it."""
    locks = {n.manifest.lock_hash: n.asset for n in reversed(closure.nodes) if n.manifest}
    here = lock_hash()
    return [
        f"{asset}: made with packages {lock[:12]}; installed are {here[:12]}"
        for lock, asset in locks.items()
        if lock != here
    ]


def _elsewhere(closure: Closure) -> list[str]:
    """What does not decide, but should be known: another checkout, checks that were passed over."""
    revisions = {n.manifest.git_revision for n in closure.nodes if n.manifest} - {git_revision()}
    said = [f"git revision recorded: {r or 'none'}; here: {git_revision() or 'none'}." for r in revisions]
    if _overridden(closure):
        said.append("Checks were overridden when it was made, and so they are here.")
    return said


def _overridden(closure: Closure) -> bool:
    return any(n.manifest.overrides for n in closure.nodes if n.manifest)


def _threads(store: DatasetStore, closure: Closure) -> dict[str, str]:
    """As many threads per process as the training had: sums are rounded by how they are divided."""
    found = [training_conditions(store, n) for n in closure.nodes]
    threads = [str(c["threads"]) for c in found if "threads" in c]
    return {"OMP_NUM_THREADS": threads[-1]} if threads else {}


def _rerun(closure: Closure, work: Path, env: Mapping[str, str], *, anyway: bool) -> Mapping[str, Any]:
    """Runs the chain in a process of its own; what it wrote down."""
    codes = {n.asset: n.manifest.code_version for n in closure.nodes if n.manifest}
    request = {"code_versions": codes, "packages": _different_packages(closure), "anyway": anyway}
    (work / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "jobs.reproducing", str(work)],
        env=dict(env),
        cwd=PROJECT_ROOT,
        check=False,
    )
    if not (work / OUTCOME).is_file():
        raise DatasetError(
            f"The process that makes it again ended with code {done.returncode} and no outcome.",
            where=str(work),
            do="Read what it printed above.",
        )
    return json.loads((work / OUTCOME).read_text(encoding="utf-8"))


def _environment(closure: Closure, record: RunRecord | None, work: Path, home: Path) -> dict[str, str]:
    """This one, with the recorded settings, its own home, instance and tracking: nothing here is touched."""
    mine = (TRACKING_VARIABLE, POSTGRES_VARIABLE, NOTIFY_VARIABLE, OVERRIDE_VARIABLE)
    env = {k: v for k, v in os.environ.items() if k not in mine and not k.startswith("DAGSTER_")}
    env |= {"EHR_HOME": str(home)}
    if record is not None:
        folders = [work / "specs" / str(n) for n in range(len(record.specs))]
        for folder, files in zip(folders, record.specs, strict=True):
            folder.mkdir(parents=True)
            for name, text in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        env |= {
            "EHR_SPECS": os.pathsep.join(map(str, folders)),
            "EHR_OVERRIDES": json.dumps(record.overrides) if record.overrides else "",
        }
    if _overridden(closure):
        env[OVERRIDE_VARIABLE] = "made again to compare: it was made with overrides"
    return env


def _compare(
    store: DatasetStore, closure: Closure, made: Mapping[str, Mapping[str, str]], done: Reproduction
) -> None:
    for node in closure.nodes:
        new = made.get(node.asset)
        done.agrees[node.asset] = bool(new) and new["data_version"] == node.data_version
        if done.first is None and not done.agrees[node.asset]:
            done.first = node.asset + (f" ({_files(node, done.home / new['dataset'])})" if new else "")


def _files(node: Node, folder: Path) -> str:
    """The files that differ between a dataset and the same made again."""
    assert node.manifest is not None
    before = {f.path: f.sha256 for f in node.manifest.files if not f.volatile}
    after = {f.path: f.sha256 for f in Manifest.read(folder / MANIFEST_NAME).files if not f.volatile}
    return ", ".join(p for p in sorted(before | after) if before.get(p) != after.get(p))


def _empty(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(home.iterdir()):
        raise DatasetError(
            "The directory is not empty.", where=str(home), do="Give an empty one, or none at all."
        )
    return home.resolve()
