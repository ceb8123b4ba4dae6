"""A Dagster run in a process of its own, for a test to cancel or kill: `drive_launcher.py PIDS_FOLDER`."""

import sys

import dagster as dg

from resources.launcher import DeepSpeedLauncher


@dg.asset
def hanging(context: dg.AssetExecutionContext, launcher: DeepSpeedLauncher) -> dg.MaterializeResult:
    launcher.launch(context, "rank_for_tests", {"do": "hang", "pids": sys.argv[1]}, num_processes=2)
    return dg.MaterializeResult()


if __name__ == "__main__":
    dg.materialize([hanging], resources={"launcher": DeepSpeedLauncher(grace_seconds=1.0)})
