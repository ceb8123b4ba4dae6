"""Fan-out over processes: order, laziness, errors, dead workers and dead parents."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ehr_assets.errors import DatasetError, SpecError
from ehr_assets.fanout import GB, Crew, Machine

PROJECT = Path(__file__).resolve().parents[2]


def _pid_after(seconds: float) -> tuple[float, int, str]:
    time.sleep(seconds)
    return seconds, os.getpid(), os.environ.get("POLARS_MAX_THREADS", "")


def _fail(task: int) -> int:
    if task == 2:
        raise DatasetError("task two is bad", where="here", do="nothing")
    return task


def _die(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_results_come_in_the_order_of_tasks_from_several_single_threaded_processes():
    tasks = [0.4, 0.0, 0.1, 0.0, 0.2, 0.0]
    with Crew(2) as crew:
        found = list(crew.map(_pid_after, tasks))
    assert [f[0] for f in found] == tasks
    assert len({f[1] for f in found}) == 2
    assert os.getpid() not in {f[1] for f in found}
    assert {f[2] for f in found} == {"1"}


def test_one_worker_is_this_process():
    with Crew(1) as crew:
        assert [f[1] for f in crew.map(_pid_after, [0.0])] == [os.getpid()]


def test_tasks_are_drawn_only_as_fast_as_they_are_worked_off():
    drawn = []

    def tasks():
        for i in range(50):
            drawn.append(i)
            yield 0.0

    with Crew(2) as crew:
        results = crew.map(_pid_after, tasks())
        next(results)
        assert len(drawn) <= 6
        results.close()


def test_a_workers_error_arrives_as_it_is():
    with Crew(2) as crew, pytest.raises(DatasetError, match="task two") as e:
        list(crew.map(_fail, range(5)))
    assert (e.value.where, e.value.do) == ("here", "nothing")


def test_a_killed_worker_is_an_error_for_people():
    with Crew(2) as crew, pytest.raises(DatasetError, match="memory ran out"):
        list(crew.map(_die, range(5)))


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    code = (
        "import sys, time\n"
        "from tests.unit.test_fanout import _pid_after\n"
        "from ehr_assets.fanout import Crew\n"
        "if __name__ == '__main__':\n"
        "    with Crew(2) as crew:\n"
        "        print([f[1] for f in crew.map(_pid_after, [0.3, 0.3])], flush=True)\n"
        "        time.sleep(60)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=env
    ) as parent:
        assert parent.stdout
        pids = eval(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.2)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_the_budget_limits_the_workers():
    machine = Machine(workers=16, memory_bytes=4 * GB)
    assert machine.workers_of(GB) == 3
    assert machine.workers_of(100 * GB) == 1
    assert Machine(workers=2, memory_bytes=64 * GB).workers_of(GB) == 2


def test_settings_of_the_machine():
    assert Machine.from_env({"EHR_WORKERS": "3", "EHR_MEMORY_GB": "1.5"}) == Machine(3, int(1.5 * GB))
    assert Machine.from_env({}).memory_bytes == 4 * GB
    for bad in (
        {"EHR_WORKERS": "0"},
        {"EHR_WORKERS": "1.5"},
        {"EHR_MEMORY_GB": "lots"},
        {"EHR_MEMORY_GB": "nan"},
    ):
        with pytest.raises(SpecError, match=next(iter(bad))):
            Machine.from_env(bad)
