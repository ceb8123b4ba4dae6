"""What the instance's configuration limits and starts again: trainings on one GPU, retrainings, lost runs.

That a cancelled or killed run gives its slot back is in `test_resources_launcher.py`.
"""

import pytest
from dagster import DagsterRunStatus, asset, materialize
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.test_utils import create_run_for_test

from ehr_assets.settings import Settings
from jobs.abandoned import process_tags
from jobs.instance import open_instance
from jobs.retraining import RETRAINING_TAG


@pytest.fixture
def instance(tmp_path, monkeypatch):
    for name in ("EHR_HOME", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
    with open_instance(Settings(home=tmp_path)) as made:
        yield made


def test_one_gpu_never_gets_two_trainings(instance):
    """While one trains, a step of another run is not let into the pool; when it has ended, it is."""
    storage = instance.event_log_storage
    during = []

    def may_start():
        return storage.claim_concurrency_slot("gpu", "another run", "r__checkpoint").is_claimed

    @asset(key=["r", "checkpoint"], pool="gpu")
    def checkpoint():
        during.append(may_start())

    assert materialize([checkpoint], instance=instance).success
    assert during == [False]
    assert may_start()


@pytest.mark.parametrize(
    ("reason", "tags", "again"),
    [
        (RunFailureReason.UNKNOWN, {}, True),
        (RunFailureReason.RUN_EXCEPTION, {}, True),
        (RunFailureReason.STEP_FAILURE, {}, False),
        (RunFailureReason.UNKNOWN, process_tags(), False),
    ],
    ids=["lost", "crashed", "a step failed", "ehr's own"],
)
def test_only_a_lost_run_is_started_again(instance, reason, tags, again):
    run = create_run_for_test(instance, "retrain", tags=tags, status=DagsterRunStatus.FAILURE)
    assert auto_reexecution_should_retry_run(instance, run, reason) is again


def test_one_retraining_at_a_time_and_reports_are_looked_at(instance):
    limits = instance.get_concurrency_config().run_queue_config
    assert {"key": RETRAINING_TAG, "limit": 1} in limits.tag_concurrency_limits
    assert limits.max_concurrent_runs == 2
    assert instance.get_settings("freshness") == {"enabled": True}
