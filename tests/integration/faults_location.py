"""A code location for the fault tests: small assets on the house's own storage that can be held at a moment.

    source → held → end,   crewed,   large

Their bodies are nothing; what is tested is what stands around every body: staging, commits, locks, gates,
pools. An asset that is held writes half of a file, says so in a file of EHR_FAULTS named by its process, and
goes on when the folder holds a file `go`.
"""

import os
import time
from pathlib import Path

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    Definitions,
    asset,
    asset_check,
    define_asset_job,
    in_process_executor,
    multiprocess_executor,
)

from ehr_assets.fanout import Crew
from resources.step import Step
from resources.storage import Datasets

GROUP = "faults"
SOURCE, HELD, END, CREWED, LARGE = (
    AssetKey([GROUP, name]) for name in ("source", "held", "end", "crewed", "large")
)
GATES = {"faults/source": ["good"], "faults/held": ["whole"]}
HALF = "half of it\n" * 1000
LARGE_BYTES = 64 << 20
PATIENCE = 180.0


def hold(who: str) -> None:
    """Says that this process has come so far, and waits."""
    folder = Path(os.environ["EHR_FAULTS"])
    (folder / f"{who}-{os.getpid()}").touch()
    until = time.monotonic() + PATIENCE
    while not (folder / "go").exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{who} was never let go")
        time.sleep(0.02)


def _work(task: int) -> int:
    if task == 1:
        hold("worker")
    return task


@asset(key=SOURCE, code_version="1")
def source(context: AssetExecutionContext, datasets: Datasets):
    def build(step: Step):
        content = os.environ.get("EHR_FAULTS_CONTENT", "source")
        (step.out / "source.txt").write_text(content, encoding="utf-8")
        return {}

    return datasets.materialize(context, build)


@asset(key=HELD, deps=[SOURCE], pool="gpu", code_version="1")
def held(context: AssetExecutionContext, datasets: Datasets):
    def build(step: Step):
        with (step.out / "held.txt").open("w", encoding="utf-8") as file:
            file.write(HALF)
            file.flush()
            hold("held")
            file.write(HALF)
        return {}

    return datasets.materialize(context, build)


@asset(key=END, deps=[HELD], code_version="1")
def end(context: AssetExecutionContext, datasets: Datasets):
    def build(step: Step):
        (step.out / "end.txt").write_text(step.inputs["faults/held"].data_version, encoding="utf-8")
        return {}

    return datasets.materialize(context, build)


@asset(key=CREWED, deps=[SOURCE], code_version="1")
def crewed(context: AssetExecutionContext, datasets: Datasets):
    def build(step: Step):
        with Crew(2) as crew:
            (step.out / "crewed.txt").write_text(str(list(crew.map(_work, range(4)))), encoding="utf-8")
        return {}

    return datasets.materialize(context, build)


@asset(key=LARGE, deps=[SOURCE], code_version="1")
def large(context: AssetExecutionContext, datasets: Datasets):
    def build(step: Step):
        with (step.out / "large.bin").open("wb") as file:
            for _ in range(LARGE_BYTES >> 20):
                file.write(bytes(1 << 20))
        return {}

    return datasets.materialize(context, build)


@asset_check(asset=SOURCE, blocking=True)
def good(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
    return datasets.judge(datasets.judged(context, SOURCE), True)


@asset_check(asset=HELD, blocking=True)
def whole(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
    dataset = datasets.judged(context, HELD)
    return datasets.judge(dataset, (dataset.path / "held.txt").read_text(encoding="utf-8") == 2 * HALF)


ASSETS = [source, held, end, crewed, large]
CHECKS = [good, whole]

defs = Definitions(
    assets=ASSETS,
    asset_checks=CHECKS,
    resources={"datasets": Datasets(home=os.environ.get("EHR_HOME", "unset"), gates=GATES)},
    jobs=[
        define_asset_job("in_one", [SOURCE, HELD, END], executor_def=in_process_executor),
        define_asset_job("in_steps", [SOURCE, HELD, END], executor_def=multiprocess_executor),
        define_asset_job("sourced", [SOURCE], executor_def=in_process_executor),
        define_asset_job("by_crew", [SOURCE, CREWED], executor_def=in_process_executor),
    ],
)
