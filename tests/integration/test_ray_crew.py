"""A crew on a real Ray cluster of two nodes: order, laziness, errors, lost workers, a lost node."""

import contextlib
import os
import signal
import threading

import pytest
from launcher_support import wait_until
from ray_support import NODE, ray_cluster
from ray_tasks import Dies, die, fail, wait_for_the_gate, where

from ehr_assets.errors import DatasetError, SpecError
from ehr_assets.fanout import GB, Cluster, Machine
from ehr_assets.fanout_ray import RayCrew

pytestmark = pytest.mark.slow
MB = 1 << 20


@pytest.fixture(scope="module")
def nodes():
    with ray_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def machine(nodes):
    return Machine(cluster=Cluster(nodes.address))


def test_results_come_in_order_from_all_nodes_and_the_run_can_still_be_cancelled(machine):
    before = signal.getsignal(signal.SIGTERM)
    tasks = [0.8, 0.5, 0.6, 0.5, 0.5, 0.7, 0.5, 0.5]
    with machine.crew(100 * MB) as crew:
        found = list(crew.map(where, tasks))
    assert crew.workers == 4
    assert [f[0] for f in found] == tasks
    assert len({f[1] for f in found}) == 2
    assert {f[3] for f in found} == {"1"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_tasks_are_drawn_only_as_fast_as_they_are_worked_off(machine):
    drawn = []

    def tasks():
        for i in range(50):
            drawn.append(i)
            yield 0.0

    with machine.crew(100 * MB, most=2) as crew:
        results = crew.map(where, tasks())
        next(results)
        assert len(drawn) <= 6
        results.close()


def test_a_tasks_error_arrives_as_it_is(machine):
    with machine.crew(100 * MB) as crew:
        with pytest.raises(DatasetError, match="task two") as e:
            list(crew.map(fail, range(5)))
        assert (e.value.where, e.value.do) == ("here", "nothing")
        with pytest.raises(ValueError, match="nobody expected"):
            list(crew.map(fail, range(10, 15)))


def test_a_lost_worker_is_replaced_and_a_task_that_always_loses_it_is_an_error(machine, tmp_path):
    with machine.crew(100 * MB) as crew:
        tasks = [Dies(i, tmp_path, times=2 if i == 1 else 0) for i in range(4)]
        assert list(crew.map(die, tasks)) == [0, 1, 2, 3]
        assert len(list(tmp_path.glob("1-*"))) == 3
        with pytest.raises(DatasetError, match="lost 4 times"):
            list(crew.map(die, [Dies(9, tmp_path, times=99)]))


def test_one_task_at_a_time_is_done_here_and_too_much_memory_is_asked_of_nobody(machine):
    with machine.crew(100 * MB, most=1) as crew:
        assert crew.here
    with machine.crew(1000 * GB) as crew:
        assert crew._options["memory"] == NODE["memory"]
        assert len(list(crew.map(fail, range(2)))) == 2


def test_a_node_killed_in_the_middle_takes_no_result_with_it(nodes, machine, tmp_path):
    lost = nodes.add_node(**NODE)
    tasks = [Dies(i, tmp_path) for i in range(6)]
    got = []

    def work():
        with RayCrew(machine.cluster, 100 * MB) as crew:
            got.extend(crew.map(wait_for_the_gate, tasks))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: len(list(tmp_path.glob(f"*-{lost.node_id}"))) == 2, seconds=120)
    there = list(tmp_path.glob(f"*-{lost.node_id}"))
    wait_until(lambda: all(path.read_text() for path in there), seconds=120)
    nodes.remove_node(lost, allow_graceful=False)
    for path in there:  # with a machine its workers are gone at once
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)
    (tmp_path / "gate").touch()
    thread.join(timeout=240)
    assert got == list(range(6))
    for number in (path.name.split("-")[0] for path in there):
        assert len(list(tmp_path.glob(f"{number}-*"))) == 2, "begun again on a node that is left"


def test_no_cluster_at_the_address():
    import ray

    ray.shutdown()
    with pytest.raises(SpecError, match="no Ray cluster"):
        RayCrew(Cluster("127.0.0.1:1"), MB)
