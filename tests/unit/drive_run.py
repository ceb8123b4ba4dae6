"""Materializes assets as `ehr` does, in a process of its own: `drive_run.py ASSET...`.

The last line of its output is JSON: whether the run succeeded, the data versions, what was told of the run.
"""

import json
import sys

from dagster import AssetKey

from ehr_assets.settings import Settings
from jobs.instance import open_instance
from jobs.runner import run_assets

if __name__ == "__main__":
    names, told = sys.argv[1:], []
    instance = open_instance(Settings.from_env())
    keys = [AssetKey(name.split("/")) for name in names]
    _, success = run_assets(instance, keys, told.append)
    versions = {}
    for name, key in zip(names, keys, strict=True):
        event = instance.get_latest_materialization_event(key)
        made = event.asset_materialization if event else None
        versions[name] = made.tags["dagster/data_version"] if made and made.tags else None
    kinds = sorted({e.dagster_event.event_type_value for e in told if e.dagster_event})
    where = sorted({e.user_message for e in told if "Ray job" in e.user_message})
    failed = [
        str(e.dagster_event.event_specific_data)
        for e in told
        if e.dagster_event and e.dagster_event.is_failure
    ]
    said = {"success": success, "versions": versions, "told": kinds, "where": where, "failed": failed}
    print(json.dumps(said))
