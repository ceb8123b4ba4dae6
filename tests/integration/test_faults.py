"""Whatever is killed, fills up or jumps: state stays consistent, and the next run finishes the work.

Ranks of a training have tests of their own (tests/unit/test_training_resume.py, test_resources_launcher.py).
"""

import faults_location
import pytest
from dagster import (
    AssetSelection,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunsFilter,
    materialize,
)
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, WILL_RETRY_TAG
from farm import KEYS, Farm
from invariants import broken_promises, workers_of

from jobs.runner import QUIET
from resources.storage import Datasets

SUCCESS, FAILURE, QUEUED = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.QUEUED
IN_ONE = (faults_location.SOURCE, faults_location.HELD, faults_location.END)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A daemon at work, one for the tests of this file."""
    farm = Farm(tmp_path_factory.mktemp("farm"))
    try:
        farm.start()
        yield farm
    finally:
        farm.close()


@pytest.fixture
def farm(running):
    running.stop()
    return running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The data versions that a run gives to which nothing happens."""
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "go").touch()
    with pytest.MonkeyPatch.context() as patch, DagsterInstance.ephemeral() as instance:
        patch.setenv("EHR_FAULTS", str(home))
        datasets = Datasets(home=str(home), gates=faults_location.GATES)
        return {key: materialized(instance, datasets, key) for key in (*IN_ONE, faults_location.CREWED)}


def materialized(instance, datasets, key):
    result = materialize(
        [*faults_location.ASSETS, *faults_location.CHECKS],
        selection=AssetSelection.assets(key),
        resources={"datasets": datasets},
        instance=instance,
        run_config=QUIET,
    )
    assert result.success
    return datasets.latest(instance, key).data_version


def mended(farm, undisturbed, job="in_one", keys=IN_ONE):
    """A run after the fault finishes the work, with the same content; and nothing is left of the fault."""
    farm.go()
    farm.wait_for(farm.submit(job), SUCCESS)
    consistent(farm, undisturbed, keys)


def consistent(farm, undisturbed, keys=IN_ONE):
    found = farm.versions()
    assert {key: found[key] for key in keys} == {key: undisturbed[key] for key in keys}
    farm.wait("slots are free", lambda: not farm.instance.event_log_storage.get_concurrency_run_ids())
    farm.wait("their processes have ended", lambda: not workers_of(farm.home))
    assert broken_promises(farm.home, farm.instance, KEYS) == []


def test_a_killed_daemon_loses_no_run_and_none_runs_twice(farm, undisturbed):
    runs = [farm.submit("in_one")]
    pid = farm.held("held")
    runs.append(farm.submit("sourced"))
    farm.wait_for(runs[1], QUEUED)
    farm.kill_daemon()
    farm.start()
    farm.wait("the new daemon watches", lambda: f"Checking run {runs[0]}" in farm.new_words())
    assert farm.status(runs[0]) is DagsterRunStatus.STARTED, "its process goes on without the daemon"
    assert farm.status(runs[1]) is QUEUED
    farm.go()
    for run_id in runs:
        farm.wait_for(run_id, SUCCESS)
        assert len(farm.events(run_id, DagsterEventType.RUN_START)) == 1
    assert [path.name for path in farm.faults.glob("held-*")] == [f"held-{pid}"]
    consistent(farm, undisturbed)


def test_a_killed_run_is_closed_by_its_server_and_gives_its_slot_back(farm, undisturbed):
    run_id = farm.submit("in_one")
    farm.held("held")
    farm.kill(farm.run_process(run_id))
    farm.wait_for(run_id, FAILURE)
    mended(farm, undisturbed)


def test_a_killed_run_is_started_again_by_itself_and_once(farm, undisturbed):
    run_id = farm.submit("in_one", again_by_itself=True)
    farm.held("held")
    farm.kill(farm.run_process(run_id))
    second = RunsFilter(tags={PARENT_RUN_ID_TAG: run_id})
    (again,) = farm.wait("it is started again", lambda: farm.instance.get_runs(second))
    farm.wait_for(again.run_id, DagsterRunStatus.STARTED)
    farm.kill(farm.run_process(again.run_id))
    farm.wait_for(again.run_id, FAILURE)
    told = farm.wait("it is told", lambda: farm.instance.get_run_by_id(again.run_id).tags.get(WILL_RETRY_TAG))
    assert told == "false"
    mended(farm, undisturbed)


def test_a_killed_step_takes_only_itself_down(farm, undisturbed):
    run_id = farm.submit("in_steps")
    farm.kill(farm.held("held"))
    farm.wait_for(run_id, FAILURE)
    assert "ChildProcessCrashException" in farm.why(run_id, "faults__held")
    mended(farm, undisturbed)


def test_a_killed_worker_of_a_crew_is_one_clear_error(farm, undisturbed):
    run_id = farm.submit("by_crew")
    farm.kill(farm.held("worker"))
    farm.wait_for(run_id, FAILURE)
    assert "worker process was killed" in farm.why(run_id, "faults__crewed")
    mended(farm, undisturbed, "by_crew", (faults_location.SOURCE, faults_location.CREWED))


def test_runs_that_a_machine_took_with_it_are_closed_when_it_is_back(farm, undisturbed):
    run_id = farm.submit("in_one")
    farm.held("held")
    farm.kill_machine()
    assert farm.status(run_id) is DagsterRunStatus.STARTED, "nobody could say so"
    assert len(broken_promises(farm.home, farm.instance, KEYS)) == 1, "the open run, and nothing else"
    farm.start()
    farm.wait_for(run_id, FAILURE)
    mended(farm, undisturbed)
