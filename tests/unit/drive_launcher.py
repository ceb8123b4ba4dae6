"""A Dagster run in a process of its own, for a test to cancel or kill: `drive_launcher.py PIDS_FOLDER HOSTS`.

HOSTS is how many there are, 1 or 2, or the address of a Ray cluster whose nodes take a process each.

In the instance of DAGSTER_HOME if there is one, as `ehr` would make it.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from jobs.abandoned import process_tags
from resources.launcher import DeepSpeedLauncher

HERE = Path(__file__).parent


@dg.asset(pool="gpu")
def hanging(context: dg.AssetExecutionContext, launcher: DeepSpeedLauncher) -> dg.MaterializeResult:
    launcher.launch(context, "rank_for_tests", {"do": "hang", "pids": sys.argv[1]}, num_processes=2)
    return dg.MaterializeResult()


if __name__ == "__main__":
    where = {}
    if sys.argv[2] == "2":
        where = {"hosts": ["localhost slots=1", "elsewhere slots=1"]}
    elif sys.argv[2] != "1":
        where = {"ray_address": sys.argv[2], "slots": 1}
    shell = [sys.executable, str(HERE / "shell_for_tests.py")]
    launcher = DeepSpeedLauncher(grace_seconds=1.0, remote_shell=shell, **where)
    home = os.environ.get("DAGSTER_HOME")
    instance = dg.DagsterInstance.from_config(home) if home else dg.DagsterInstance.ephemeral()
    dg.materialize([hanging], resources={"launcher": launcher}, instance=instance, tags=process_tags())
