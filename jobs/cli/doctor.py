"""`ehr doctor`: what is installed, found and missing, without importing any of it."""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ehr_assets.private import open_to_others
from ehr_assets.settings import PROJECT_ROOT, Settings

PACKAGES = (
    *("dagster", "dagster-aws", "torch", "transformers", "peft", "deepspeed", "polars", "meds"),
    *("great-expectations", "duckdb", "mlflow", "scikit-learn", "xgboost", "lifelines"),
)


def examine(console: Console) -> bool:
    """Prints the findings; False if something that the demo needs is missing."""
    findings = [
        _python(),
        *(_package(p) for p in PACKAGES),
        _compiler(),
        _accelerator(),
        *_storage(),
        _mimic(),
    ]
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found"):
        table.add_column(column)
    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]–[/]"}
    for ok, what, found in findings:
        table.add_row(marks[ok], what, found)
    console.print(table)
    return all(ok is not False for ok, _, _ in findings)


Finding = tuple[bool | None, str, str]


def _python() -> Finding:
    return sys.version_info[:2] == (3, 11), "Python 3.11", sys.version.split()[0]


def _package(name: str) -> Finding:
    wanted = _constraints().get(name)
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, name, "not installed: run `make install`"
    if wanted and found.split("+")[0] != wanted.split("+")[0]:
        return None, name, f"{found}, but constraints.txt says {wanted}"
    return True, name, found


def _constraints() -> dict[str, str]:
    path = PROJECT_ROOT / "constraints.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pairs}


def _compiler() -> Finding:
    found = shutil.which("c++") or shutil.which("g++")
    return bool(found) or None, "C++ compiler", found or "missing: DeepSpeed cannot build its CPU operators"


def _accelerator() -> Finding:
    devices = sorted(p.name for p in Path("/dev").glob("nvidia[0-9]*"))
    return bool(devices) or None, "NVIDIA GPU", ", ".join(devices) or "none: training runs on the CPU"


def _storage() -> list[Finding]:
    home = Settings.from_env().home
    nearest = next(p for p in [home, *home.parents] if p.exists())
    free = shutil.disk_usage(nearest).free / 1e9
    return [
        (os.access(nearest, os.W_OK), "EHR_HOME", str(home) + ("" if home.exists() else " (not made yet)")),
        (free > 2 or None, "free space there", f"{free:.0f} GB"),
        _private(home),
    ]


def _private(home: Path) -> Finding:
    if open_to_others(home):
        return None, "who may read it", f"others, too: chmod -R go= {home}"
    return True, "who may read it", "its owner alone"


def _mimic() -> Finding:
    root = os.environ.get("EHR_MIMIC_IV_ROOT")
    if not root:
        return None, "EHR_MIMIC_IV_ROOT", "not set: the mimic_iv cohort cannot be run"
    found = (Path(root) / "hosp").is_dir()
    return found, "EHR_MIMIC_IV_ROOT", root if found else f"{root}: there is no hosp/ folder in it"
