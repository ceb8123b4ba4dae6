"""What the house adds to Dagster: per asset that is made, and per asset that is defined.

An asset of ours opens its gates and inputs, stages, hashes, commits and says what it made; a bare Dagster
asset writes the same files and reports the same data version. Definitions of ours come from specs; bare ones
have as many assets, dependencies and checks. Processor time of this process: others' work does not count.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    DagsterInstance,
    DataVersion,
    Definitions,
    MaterializeResult,
    MetadataValue,
    asset,
    asset_check,
    materialize,
)
from rich.console import Console

from ehr_assets.build import build_definitions
from ehr_assets.settings import Settings
from jobs.runner import QUIET
from resources.storage import Datasets
from tests.benchmarks.measure import Row, interleaved, show
from tests.integration.made_up import SPECS

REPEATS = 5
ASSETS = 12
"""In one run, so that what a run costs as a whole hides nothing."""
FILES = ((1, 1 << 10), (1, 1 << 24), (100, 1 << 14))
"""Files of an asset, and bytes of each."""
COHORTS = (5, 30, 137)
"""Of six assets each, beside those that are built in; the last make a thousand."""


def main(console: Console, folder: Path) -> None:
    rows = [_made(folder / f"{files}-{size}", files, size) for files, size in FILES]
    show(console, "Making assets", f"bare Dagster, the same bytes, {ASSETS} in one run", "assets", rows)
    console.print(_overhead(rows))
    rows = [_chained(folder / f"chain-{length}", length) for length in (6, 12, 24, 48)]
    show(console, "A chain of assets, each made from the one before", "bare Dagster", "assets", rows)
    rows = [_loaded(folder / f"specs-{cohorts}", cohorts) for cohorts in COHORTS]
    show(console, "Loading definitions", "bare definitions of the same size", "assets", rows)


def _overhead(rows: list[Row]) -> str:
    each = (f"{(row.ours - row.reference) / row.amount * 1000:.0f} ms ({row.size})" for row in rows)
    return f"the house's own share per asset: {', '.join(each)}\n"


def _made(folder: Path, files: int, size: int) -> Row:
    """Independent assets of so many files."""
    ours, bare = _assets(ASSETS, files, size, chained=False)
    return _timed(folder, f"{files} × {size >> 10:,} kB", ours, bare, ASSETS)


def _chained(folder: Path, length: int) -> Row:
    ours, bare = _assets(length, 1, 1 << 10, chained=True)
    return _timed(folder, f"chain of {length}", ours, bare, length)


def _timed(
    folder: Path, size: str, ours: list[AssetsDefinition], bare: list[AssetsDefinition], number: int
) -> Row:
    def way(name: str, definitions: list[AssetsDefinition]) -> Callable[[], None]:
        home = folder / name
        (home / "dagster").mkdir(parents=True)
        instance = DagsterInstance.local_temp(str(home / "dagster"))

        def once() -> None:
            datasets = Datasets(home=str(home), gates={})
            done = materialize(
                definitions, instance=instance, resources={"datasets": datasets}, run_config=QUIET
            )
            assert done.success

        return once

    seconds = interleaved(way("ours", ours), way("bare", bare), REPEATS, time.process_time)
    shutil.rmtree(folder)
    return Row(size, number, *seconds)


def _assets(
    number: int, files: int, size: int, *, chained: bool
) -> tuple[list[AssetsDefinition], list[AssetsDefinition]]:
    content = bytes(range(256)) * (size // 256)

    def write(folder: Path) -> None:
        for i in range(files):
            (folder / f"{i:05d}.bin").write_bytes(content)

    def pair(i: int) -> tuple[AssetsDefinition, AssetsDefinition]:
        key = AssetKey(["bench", f"a{i:04d}"])
        deps = [AssetKey(["bench", f"a{i - 1:04d}"])] if chained and i else []

        @asset(key=key, deps=deps, code_version="1")
        def ours(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
            def build(step):
                write(step.out)
                return {"files": files}

            return datasets.materialize(context, build)

        @asset(key=key, deps=deps, code_version="1")
        def bare(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
            out = Path(datasets.home) / key.path[-1] / context.run_id
            out.mkdir(parents=True)
            write(out)
            return MaterializeResult(
                data_version=DataVersion("1"),
                metadata={"files": files, "path": MetadataValue.path(str(out)), "bytes": files * size},
            )

        return ours, bare

    pairs = [pair(i) for i in range(number)]
    return [ours for ours, _ in pairs], [bare for _, bare in pairs]


def _loaded(folder: Path, cohorts: int) -> Row:
    """So many cohorts with their corpora, as definitions that Dagster has resolved."""
    for i in range(cohorts):
        for kind in ("cohorts", "corpora"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            spec = {**SPECS[kind], "name": f"bench_{i:04d}"}
            if kind == "cohorts":
                spec = {k: v for k, v in spec.items() if k not in ("decision_nodes", "baselines")}
            else:
                spec["cohorts"] = [spec["name"]]
            (folder / kind / f"{spec['name']}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    settings = Settings(home=folder / "home", spec_dirs=(folder,))
    template = build_definitions(settings)
    specs = list(template.resolve_all_asset_specs())
    checks = [key for graph in (template.resolve_asset_graph(),) for key in graph.asset_check_keys]

    def ours() -> None:
        _resolve(build_definitions(settings))

    def bare() -> None:
        _resolve(_bare(specs, [(key.asset_key, key.name) for key in checks]))

    start = time.perf_counter()
    ours()
    repeats = REPEATS if time.perf_counter() - start < 2 else 2
    return Row(f"{cohorts} cohorts", len(specs), *interleaved(ours, bare, repeats, time.process_time))


def _resolve(definitions: Definitions) -> None:
    definitions.resolve_asset_graph()
    definitions.resolve_all_job_defs()


def _bare(specs: list[AssetSpec], checks: list[tuple[AssetKey, str]]) -> Definitions:
    def made(spec: AssetSpec) -> AssetsDefinition:
        @asset(key=spec.key, deps=spec.deps, group_name=spec.group_name, code_version=spec.code_version)
        def bare() -> None: ...

        return bare

    def judged(key: AssetKey, name: str):
        @asset_check(asset=key, name=name, blocking=True)
        def check() -> AssetCheckResult:
            return AssetCheckResult(passed=True)

        return check

    return Definitions(
        assets=[made(spec) for spec in specs], asset_checks=[judged(key, name) for key, name in checks]
    )
