"""A real Ray cluster on this machine for a test file: a head and some nodes, each with raylet and workers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from launcher_support import wait_until

HERE = Path(__file__).parent
NODE = {
    "num_cpus": 2,
    "memory": 4 << 30,
    "object_store_memory": 100 << 20,
}


@contextmanager
def ray_cluster(nodes: int, dashboard: bool = False) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of a head without CPUs and so many nodes; its workers find the tests.

    `dashboard`: with the server that takes jobs.
    """
    import ray
    from ray.cluster_utils import Cluster

    # Short, for the paths of sockets; and none that another cluster of this machine uses.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A killed node is noticed by its closed connection; the rest of the waiting is shortened.
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster(shutdown_at_exit=True)
        try:
            head = {**NODE, "num_cpus": 0, "include_dashboard": dashboard}
            cluster.add_node(**head, **({"dashboard_port": 0} if dashboard else {}))
            for _ in range(nodes):
                cluster.add_node(**NODE)
            if dashboard:
                wait_until(lambda: _takes_jobs(cluster.address), seconds=120)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _takes_jobs(address: str) -> bool:
    """Its agent starts some seconds after it."""
    from ray.job_submission import JobSubmissionClient

    try:
        JobSubmissionClient(address).submit_job(entrypoint="true")
    except (RuntimeError, ConnectionError):
        return False
    return True
