"""Rounds of retraining a small chain in this process, and what it and the stores measure after each.

The chain is the made-up cohort's, from its tables to the token corpus, and to the checkpoint if asked. Every
second round finds a changed raw table; the others find all as it was.
"""

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from dagster import AssetKey, DagsterEventType, DagsterInstance

from tests.integration.made_up import NAME, NAMES, RECIPE, ROOT, SPECS, Cohort

CHAIN = ("raw_tables", "subject_splits", "meds_events", "tokenizer", "token_corpus")
TRAINED = ("decision_nodes", "task_labels")
STORES = ("datasets", "dagster", "work", "staging", "locks")


@dataclass(frozen=True)
class Round:
    """After one round: of this process, and of the stores under the root.

    Attributes:
        memory: resident bytes of this process.
        files: its open file descriptors.
        threads: its threads.
        sizes: bytes by store; `mlflow` with them.
        datasets: committed datasets.
    """

    number: int
    changed: bool
    seconds: float
    memory: int
    files: int
    threads: int
    sizes: dict[str, int]
    datasets: int


def rounds(folder: Path, number: int, *, training: bool = False) -> Iterator[Round]:
    """Runs the rounds. Once per process: definitions are loaded from its environment.

    Raises:
        AssertionError: a run failed.
    """
    home = _prepare(folder)
    from ehr_assets.settings import Settings
    from jobs.instance import open_instance
    from jobs.runner import run_assets

    keys = [AssetKey([NAME, name]) for name in (*CHAIN, *(TRAINED if training else ()))]
    keys += [AssetKey([RECIPE, "checkpoint"])] if training else []
    process = psutil.Process()
    with open_instance(Settings.from_env()) as instance:
        for i in range(number):
            changed = i % 2 == 0
            if changed and i:
                _change(folder / "raw", i)
            start = time.perf_counter()
            run_id, success = run_assets(instance, keys, lambda _: None)
            assert success, f"round {i + 1} failed: {list(_failures(instance, run_id))}"
            gc.collect()
            yield Round(
                i + 1,
                changed,
                time.perf_counter() - start,
                process.memory_info().rss,
                process.num_fds(),
                process.num_threads(),
                {**{name: _bytes(home / name) for name in STORES}, "mlflow": _bytes(home / "mlflow.db")},
                sum(1 for _ in (home / "datasets").rglob("_manifest.json")),
            )


def _prepare(folder: Path) -> Path:
    """Specs, tables and environment of a fresh storage root, which is returned."""
    for kind, spec in SPECS.items():
        (folder / "specs" / kind).mkdir(parents=True)
        name = NAMES[kind]
        file = folder / "specs" / kind / f"{name or NAME}.yaml"
        file.write_text(yaml.safe_dump({"name": name, **spec} if name else spec), encoding="utf-8")
    Cohort().write(folder / "raw")
    home = folder / "home"
    os.environ |= {
        "EHR_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "EHR_SPECS": str(folder / "specs"),
        "EHR_WORKERS": "1",
        ROOT: str(folder / "raw"),
    }
    return home


def _failures(instance: DagsterInstance, run_id: str) -> Iterator[str]:
    for event in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        data = event.get_dagster_event().step_failure_data
        told = data.user_failure_data.description if data.user_failure_data else None
        yield f"{event.step_key}: {told or data.error}"


def _change(raw: Path, number: int) -> None:
    """Another number in the last record of a marker: the same size, another content."""
    file = raw / "records.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    last = max(i for i, line in enumerate(lines) if ",MARKER," in line)
    lines[last] = f"{lines[last].rpartition(',')[0]},{5 + number / 10:.3f}"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
