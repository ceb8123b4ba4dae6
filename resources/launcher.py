"""Launching DeepSpeed processes from an asset: Pipes session, ranks on one or several hosts, a clean end.

What a rank does is the launched module's matter (`ehr_assets/training/process.py`). This module sees to it
that its messages stream into the run, that its failure becomes one clear error, and that no process outlives
the step that started it.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetExecutionContext,
    ConfigurableResource,
    OpExecutionContext,
    PipesFileContextInjector,
    PreviewWarning,
    open_pipes_session,
)
from pydantic import Field

from ehr_assets.errors import TrainingError
from ehr_assets.training.kept import promise
from resources.hosts import Host, commands, environment, read_hosts, spread
from resources.messages import WholeMessagesReader
from resources.process_groups import Groups, own_groups

if TYPE_CHECKING:
    from resources.ray_hosts import PlacedGroups

# Pipes calls a preview method of its own.
warnings.filterwarnings("ignore", category=PreviewWarning, module=r"dagster\._core\.pipes")

TRAINING_MODULE = "ehr_assets.training.process"


class DeepSpeedLauncher(ConfigurableResource):
    """Runs a module as DeepSpeed ranks, CPU or GPU, on this machine or on several.

    Several hosts need EHR_HOME, this checkout and its environment at the same paths, and the first host's
    name to be an address that the others reach.

    Args:
        cores: CPU cores that the ranks share; 0 for all that this process may use.
        grace_seconds: how long ranks may take to end after they were told to, before they are killed.
        hosts: lines ``name slots=n``; the first is this machine. None: this machine alone.
        hostfile: a file of such lines, instead.
        ray_address: of a Ray cluster whose nodes take the processes instead (`ray_hosts.py`).
        slots: processes that one of its nodes takes; 0 for one per GPU, or one if there are none.
        remote_shell: what runs a command on another host, given its name and one string for its shell. Its
            end must close the command's standard input, as ssh's does.
    """

    cores: int = 0
    grace_seconds: float = 5.0
    hosts: list[str] = Field(default_factory=list)
    hostfile: str = ""
    ray_address: str = ""
    slots: int = 0
    remote_shell: list[str] = Field(default_factory=lambda: ["ssh", "-o", "BatchMode=yes"])

    def train(
        self, context: AssetExecutionContext | OpExecutionContext, job: Mapping[str, Any], num_processes: int
    ) -> dict[str, Any]:
        """Trains (`job`: see `ehr_assets/training/job.py`) and returns the counts and losses of the run."""
        work = job.get("work_dir")
        report = self.launch(context, TRAINING_MODULE, job, num_processes, Path(work) if work else None)
        timing = report["timing"]
        context.log.info(
            f"trained in {timing['seconds']:.0f} s, {timing['tokens_per_s']:,.0f} tokens/s, "
            f"{timing['peak_memory_mb']:,.0f} MB at most on rank 0"
        )
        return report["stats"]

    def launch(
        self,
        context: AssetExecutionContext | OpExecutionContext,
        module: str,
        job: Mapping[str, Any],
        num_processes: int,
        work: Path | None = None,
    ) -> dict[str, Any]:
        """Runs `python -m MODULE JOB.json` as `num_processes` ranks and waits for them.

        Rank 0 opens Dagster Pipes: its log lines appear in the run at once, and the last custom message it
        reports is returned. Standard output and error go to the step's compute logs.

        Args:
            work: a folder where the job's files may lie, to be found and replaced by the next run if this
                process is killed. With several hosts, one that all of them see.

        Raises:
            TrainingError: a rank failed. It is the rank's own error if it left one in JOB.error.json,
                otherwise it carries the last lines of standard error.
        """
        with (
            _job_folder(work) as folder,
            open_pipes_session(
                context=context,
                context_injector=PipesFileContextInjector(str(folder / "context")),
                message_reader=WholeMessagesReader(folder / "messages"),
            ) as session,
        ):
            job_file = folder / "job.json"
            job_file.write_text(json.dumps(job), encoding="utf-8")
            context.log.info(f"launching {num_processes} process(es) of {module}{self._where()}")
            pipes = session.get_bootstrap_env_vars()
            with self._started(module, job_file, num_processes, pipes) as groups:
                code = groups.wait()
            if code != 0:
                raise _failure(module, code, job_file.with_suffix(".error.json"), groups.tail, work)
        messages = session.get_custom_messages()
        if not messages:
            raise TrainingError(
                "The processes ended without a report.", where=module, do="See the step's standard error."
            )
        return dict(messages[-1])

    def _where(self) -> str:
        if self.ray_address:
            return " on the Ray cluster"
        return f" on up to {len(hosts)} hosts" if (hosts := self._hosts()) else ""

    @contextlib.contextmanager
    def _started(
        self, module: str, job_file: Path, num_processes: int, pipes: Mapping[str, str]
    ) -> "Iterator[Groups | PlacedGroups]":
        """The ranks, running, however they are reached; none of them is left when the block ends."""
        if self.ray_address:
            from resources.ray_hosts import Wanted, placed_groups

            wanted = Wanted(num_processes, self.slots, self.cores, self.grace_seconds)
            with placed_groups(self.ray_address, wanted, module, job_file, pipes) as placed:
                yield placed
            return
        hosts = spread(self._hosts(), num_processes)
        most = max(host.slots for host in hosts)
        env = {**os.environ, **environment(most, self.cores), **pipes}
        launched = commands(hosts, module, job_file, env, self.remote_shell)
        with own_groups(launched, env, self.grace_seconds) as groups:
            yield groups

    def _hosts(self) -> list[Host]:
        if not self.hostfile:
            return read_hosts(self.hosts, "launcher.hosts")
        try:
            return read_hosts(Path(self.hostfile).read_text(encoding="utf-8").splitlines(), self.hostfile)
        except OSError as e:
            raise TrainingError(
                f"The hostfile cannot be read: {e.strerror}.", where=self.hostfile, do="Check the launcher."
            ) from None


@contextlib.contextmanager
def _job_folder(work: Path | None) -> Iterator[Path]:
    """An empty folder, gone afterwards."""
    if work is None:
        with tempfile.TemporaryDirectory(prefix="ehr-job-") as folder:
            yield Path(folder)
        return
    folder = work / "job"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _failure(
    module: str, code: int, error_file: Path, tail: Sequence[str], work: Path | None = None
) -> TrainingError:
    said = "\n    ".join(line for line in tail if line.strip()) or "(nothing)"
    if error_file.is_file():
        error = json.loads(error_file.read_text(encoding="utf-8"))
        # Of a process that lost another one: why is in that one's last words.
        also = f" Last words:\n    {said}" if error.get("lost") else ""
        return TrainingError(error["what"] + also, where=error["where"], do=error["do"])
    # DeepSpeed's launcher gives the signal that ended a rank, -9, as its own exit code, which is a byte.
    signum = -code if code < 0 else 256 - code if code > 192 else 0
    how = f"was killed by {signal.Signals(signum).name}" if signum else f"ended with exit code {code}"
    what, where = f"A process of {module} {how}.", module
    do = ""
    if code == 255:  # ssh's own
        what, where = "A host could not be reached, or the connection to it was lost.", "launcher.hosts"
        do = "Try the launcher's remote_shell with that host by hand. "
    elif signum == signal.SIGKILL:
        do = "The machine probably ran out of memory: lower engine.micro_batch or engine.num_processes. "
    elif signum == signal.SIGABRT:  # NCCL's way to end an exchange that takes too long
        do = "If it waited for another process in vain, that one's words or engine.timeout_minutes say why. "
    return TrainingError(
        f"{what} Last words:\n    {said}",
        where=where,
        do=f"{do}The whole standard error is in the step's compute logs."
        + (f" {promise(work)}" if work else ""),
    )
