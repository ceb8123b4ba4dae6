"""Brings one asset up to date, with all that it is made from, and says how all of these are then.

Run by `test_storage.py` with the environment of an installation: `python some_assets.py ASSET`. The last
line is JSON: {asset: [state, data version, made by this run]}.
"""

import json
import sys

from dagster import AssetKey

from jobs.abandoned import close_dead_runs
from jobs.cli.project import Project
from jobs.runner import run_assets
from jobs.status import State
from resources.storage import asset_name


def bring_up_to_date(asset: str) -> None:
    project = Project()
    close_dead_runs(project.instance, project.settings)
    wanted = project.graph.upstream([AssetKey(asset.split("/"))])
    before = project.statuses(thorough=wanted)
    todo = [key for key in wanted if before[key].state is not State.FRESH]
    if todo:
        run_id, success = run_assets(project.instance, todo, lambda entry: None)
        assert success, run_id
    after = project.statuses()
    print(json.dumps({asset_name(k): [after[k].state, after[k].data_version, k in todo] for k in wanted}))


if __name__ == "__main__":
    bring_up_to_date(sys.argv[1])
