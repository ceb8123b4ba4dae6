"""The process of `ehr reproduce` that runs the chain: ``python -m jobs.reproducing WORK``.

Its environment holds the settings; WORK/request.json what is to be made, with the recorded code versions. It
writes WORK/outcome.json: what code differs, what was made, or why the chain stopped.
"""

import json
import sys
from pathlib import Path
from typing import Any

from dagster import AssetKey
from rich.console import Console

from ehr_assets.errors import EhrError
from ehr_assets.lineage.names import asset_and_partition
from jobs.cli.project import Project
from jobs.cli.running import _around_partitions, _run
from jobs.reproduce import OUTCOME, REQUEST
from resources.recorded import recorded
from resources.storage import asset_name


def main(work: Path) -> None:
    request = json.loads((work / REQUEST).read_text(encoding="utf-8"))
    outcome: dict[str, Any] = {"code": [], "made": {}, "failed": None}
    try:
        project = Project()
        outcome["code"] = _different_code(project, request["code_versions"])
        if request["anyway"] or not (outcome["code"] or request["packages"]):
            _make(project, list(request["code_versions"]))
            for name in request["code_versions"]:
                if found := recorded(project.instance, name):
                    outcome["made"][name] = {"data_version": found.data_version, "dataset": found.dataset}
    except EhrError as e:
        outcome["failed"] = str(e)
    (work / OUTCOME).write_text(json.dumps(outcome), encoding="utf-8")


def _different_code(project: Project, wanted: dict[str, str]) -> list[str]:
    """A line for each asset that is not defined here, or by other code or settings than recorded."""
    said = []
    for name, version in wanted.items():
        key = AssetKey(asset_and_partition(name)[0].split("/"))
        if key not in project.graph.code_versions:
            said.append(f"{name}: not defined with these settings")
        elif (here := project.graph.code_versions[key]) != version:
            said.append(f"{name}: made by code version {version}; here it is {here}")
    return said


def _make(project: Project, names: list[str]) -> None:
    """Runs the assets of these names, each partition in a run of its own."""
    console = Console()
    parts = [asset_and_partition(name) for name in names]
    assets = {asset for asset, _ in parts}
    wanted = [key for key in project.graph.order if asset_name(key) in assets]
    before, partitions, after = _around_partitions(project, wanted)
    _launch(console, project, before, None)
    for partition in dict.fromkeys(p for _, p in parts if p is not None):
        keys = [key for key in partitions[partition] if (asset_name(key), partition) in parts]
        _launch(console, project, keys, partition)
    _launch(console, project, after, None)


def _launch(console: Console, project: Project, keys: list[AssetKey], partition: str | None) -> None:
    if keys:
        _run(console, project, keys, {}, partition)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
