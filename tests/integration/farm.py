"""A storage root whose runs a real `dagster-daemon` queues and launches, for tests that kill parts of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import faults_location
import psutil
import yaml
from dagster import AssetKey, DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from jobs.instance import INSTANCE_CONFIG

T = TypeVar("T")

HERE = Path(__file__).parent
KEYS = [key for definition in faults_location.ASSETS for key in definition.keys]
# The product's instance with everything that waits made quick, and one run at a time.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "run_monitoring": {"free_slots_after_run_end_seconds": 1, "poll_interval_seconds": 1},
    "concurrency": {"runs": {"max_concurrent_runs": 1}},
    "run_queue": {"dequeue_interval_seconds": 1},
}


class Farm:
    """The daemon's processes and what they work on."""

    def __init__(self, folder: Path) -> None:
        self.home, self.faults = folder / "home", folder / "faults"
        self.faults.mkdir(parents=True)
        dagster_home = self.home / "dagster"
        dagster_home.mkdir(parents=True)
        config = yaml.safe_load(INSTANCE_CONFIG.read_text(encoding="utf-8"))
        for section, values in QUICK.items():
            config[section] = {**config.get(section, {}), **values}
        queue = config.pop("run_queue")
        config["run_coordinator"] = {
            "module": "dagster._core.run_coordinator.queued_run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": queue,
        }
        (dagster_home / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        module = {
            "module_name": "faults_location",
            "working_directory": str(HERE),
            "location_name": "faults",
        }
        self.workspace = folder / "workspace.yaml"
        self.workspace.write_text(
            yaml.safe_dump({"load_from": [{"python_module": module}]}), encoding="utf-8"
        )
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("EHR_", "DAGSTER_", "MLFLOW_"))},
            "EHR_HOME": str(self.home),
            "EHR_FAULTS": str(self.faults),
            "DAGSTER_HOME": str(dagster_home),
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
        }
        self.log = folder / "daemon.log"
        self.instance = DagsterInstance.from_config(str(dagster_home))
        self.daemon: subprocess.Popen | None = None
        self._everything: list[psutil.Process] = []
        self._read = 0

    def start(self) -> None:
        self._read = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(self.workspace)]
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def new_words(self) -> str:
        """What the daemon has said since it was last started."""
        return self.log.read_bytes()[self._read :].decode(errors="replace")

    def kill_daemon(self) -> None:
        """The daemon alone: its code server and the runs in it go on."""
        assert self.daemon
        self._everything += self.processes()
        self.daemon.kill()
        self.daemon.wait()

    def kill_machine(self) -> None:
        """Everything at once, as when a machine is switched off."""
        everything = self.processes() + self._everything
        for process in everything:
            if process.is_running():
                process.kill()
        if self.daemon:
            self.daemon.wait()
        psutil.wait_procs(everything, timeout=faults_location.PATIENCE)

    def processes(self) -> list[psutil.Process]:
        """The daemon and all below it."""
        if self.daemon is None or self.daemon.poll() is not None:
            return []
        root = psutil.Process(self.daemon.pid)
        return [*root.children(recursive=True), root]

    def submit(self, job: str, *, again_by_itself: bool = False) -> str:
        """Puts a run of this job into the queue, as the UI does.

        `again_by_itself`: as configured, a run that is lost is started again.
        """
        repository = ReconstructableRepository.for_module("faults_location", "defs", str(HERE))
        made = repository.get_reconstructable_job(job)
        target = LoadableTargetOrigin(
            executable_path=sys.executable, module_name="faults_location", working_directory=str(HERE)
        )
        place = ManagedGrpcPythonEnvCodeLocationOrigin(target, "faults")
        run = self.instance.create_run_for_job(
            job_def=made.get_definition(),
            tags={} if again_by_itself else {MAX_RETRIES_TAG: "0"},
            job_code_origin=made.get_python_origin(),
            remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(place, "__repository__"), job),
        )
        self.instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
        return run.run_id

    def wait(self, what: str, until: Callable[[], T]) -> T:
        """Waits until something is so; fails with the daemon's last words."""
        end = time.monotonic() + faults_location.PATIENCE
        while not (found := until()):
            if time.monotonic() > end:
                said = self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
                raise AssertionError(f"waited in vain until {what}:\n{self.states()}\n{said}")
            time.sleep(0.1)
        return found

    def wait_for(self, run_id: str, status: DagsterRunStatus) -> None:
        self.wait(f"run {run_id} is {status}", lambda: self.status(run_id) is status)

    def held(self, who: str) -> int:
        """Waits until an asset is held; gives the process it is held in."""
        found = self.wait(f"{who} is held", lambda: list(self.faults.glob(f"{who}-*")))
        return int(found[0].name.rpartition("-")[2])

    def go(self) -> None:
        (self.faults / "go").touch()

    def stop(self) -> None:
        """From here on, what can be held is held again."""
        for file in self.faults.iterdir():
            file.unlink()

    def status(self, run_id: str) -> DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run.status

    def states(self) -> str:
        return json.dumps({run.run_id[:8]: run.status.value for run in self.instance.get_runs()})

    def events(self, run_id: str, kind: DagsterEventType) -> list[str]:
        """What the events of this kind say."""
        return [
            entry.dagster_event.message or ""
            for entry in self.instance.all_logs(run_id, of_type=kind)
            if entry.dagster_event
        ]

    def run_process(self, run_id: str) -> int:
        said = self.events(run_id, DagsterEventType.ENGINE_EVENT)
        return next(int(line.split("pid: ")[1].split(")")[0]) for line in said if "pid: " in line)

    def why(self, run_id: str, step: str) -> str:
        """Why a step failed."""
        for entry in self.instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
            if entry.step_key == step and entry.dagster_event:
                data = entry.dagster_event.step_failure_data
                told = data.user_failure_data.description if data.user_failure_data else None
                return told or str(data.error)
        raise AssertionError(f"step {step} of run {run_id} did not fail")

    def versions(self) -> dict[AssetKey, str | None]:
        found = self.instance.get_latest_materialization_events(KEYS)
        return {
            key: (event.asset_materialization.tags or {}).get("dagster/data_version")
            for key, event in found.items()
            if event and event.asset_materialization
        }

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill_machine()
        self.instance.dispose()
