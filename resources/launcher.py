"""Launching DeepSpeed processes from an asset: Pipes session, ranks, a clean end.

What a rank does is the launched module's matter (`ehr_assets/training/process.py`). This module sees to it
that its messages stream into the run, that its failure becomes one clear error, and that no process outlives
the step that started it.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dagster import (
    AssetExecutionContext,
    ConfigurableResource,
    OpExecutionContext,
    PipesTempFileContextInjector,
    PipesTempFileMessageReader,
    PreviewWarning,
    open_pipes_session,
)

from ehr_assets.errors import TrainingError

# Pipes calls a preview method of its own.
warnings.filterwarnings("ignore", category=PreviewWarning, module=r"dagster\._core\.pipes")

TRAINING_MODULE = "ehr_assets.training.process"
TAIL_LINES = 30


class DeepSpeedLauncher(ConfigurableResource):
    """Runs a module as DeepSpeed ranks on this machine, CPU or GPU.

    Args:
        cores: CPU cores that the ranks share; 0 for all that this process may use.
        grace_seconds: how long ranks may take to end after they were told to, before they are killed.
    """

    cores: int = 0
    grace_seconds: float = 5.0

    def train(
        self, context: AssetExecutionContext | OpExecutionContext, job: Mapping[str, Any], num_processes: int
    ) -> dict[str, Any]:
        """Trains (`job`: see `ehr_assets/training/job.py`) and returns the counts and losses of the run."""
        report = self.launch(context, TRAINING_MODULE, job, num_processes)
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
    ) -> dict[str, Any]:
        """Runs `python -m MODULE JOB.json` as `num_processes` ranks and waits for them.

        Rank 0 opens Dagster Pipes: its log lines appear in the run at once, and the last custom message it
        reports is returned. Standard output and error go to the step's compute logs.

        Raises:
            TrainingError: a rank failed. It is the rank's own error if it left one in JOB.error.json,
                otherwise it carries the last lines of standard error.
        """
        with (
            tempfile.TemporaryDirectory(prefix="ehr-job-") as folder,
            open_pipes_session(
                context=context,
                context_injector=PipesTempFileContextInjector(),
                message_reader=PipesTempFileMessageReader(),
            ) as session,
        ):
            job_file = Path(folder) / "job.json"
            job_file.write_text(json.dumps(job), encoding="utf-8")
            command = _command(module, job_file, num_processes)
            env = {
                **os.environ,
                **_environment(num_processes, self.cores),
                **session.get_bootstrap_env_vars(),
            }
            context.log.info(f"launching {num_processes} process(es) of {module}")
            with _own_group(command, env, self.grace_seconds) as (process, tail):
                code = process.wait()
            if code != 0:
                raise _failure(module, code, job_file.with_suffix(".error.json"), tail)
        messages = session.get_custom_messages()
        if not messages:
            raise TrainingError(
                "The processes ended without a report.", where=module, do="See the step's standard error."
            )
        return dict(messages[-1])


def _command(module: str, job_file: Path, num_processes: int) -> list[str]:
    ranks = {"localhost": list(range(num_processes))}
    return [
        sys.executable,
        *("-m", "ehr_assets.training.lean_deepspeed"),  # deepspeed.launcher.launch, and what it lacks
        f"--world_info={base64.urlsafe_b64encode(json.dumps(ranks).encode()).decode()}",
        *("--master_addr=127.0.0.1", f"--master_port={_free_port()}"),
        *("--log_level=warning", "--no_local_rank", "--module"),
        *(module, str(job_file)),
    ]


def _environment(num_processes: int, cores: int) -> dict[str, str]:
    """Threads per rank, and the CPU where there is no GPU. The user's own settings win.

    PASSIVE because OpenMP's threads otherwise spin while they wait: with more of them than free cores
    (another step on this machine is enough) a training was seen to become 60 times slower.
    """
    available = cores or _cores()
    env = {
        "OMP_NUM_THREADS": str(max(1, available // num_processes)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not _has_gpu():
        env["DS_ACCELERATOR"] = "cpu"
    return {name: value for name, value in env.items() if name not in os.environ}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu() -> bool:
    """Whether there is an NVIDIA device; asked without importing torch into the Dagster process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and Path("/dev/nvidiactl").exists()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def _own_group(
    command: list[str], env: Mapping[str, str], grace: float
) -> Iterator[tuple[subprocess.Popen[bytes], deque[str]]]:
    """A process in a group of its own, and the last lines of its standard error; it ends with the block.

    However the block ends (done, error, cancelled run), every process of the group is gone afterwards. If
    this very process is killed, the group sees its standard input close and ends itself.
    """
    process = subprocess.Popen(
        command, env=dict(env), stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    copier = threading.Thread(target=_copy_stderr, args=(process.stderr, tail), daemon=True)
    copier.start()
    try:
        yield process, tail
    finally:
        _end_group(process, grace)
        copier.join(timeout=2)
        for stream in (process.stdin, process.stderr):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()


def _copy_stderr(stream: IO[bytes], tail: deque[str]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed under our hands at the end
        for raw in stream:
            line = raw.decode(errors="replace")
            tail.append(line.rstrip())
            sys.stderr.write(line)


def _end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    """TERM, a while, KILL, to the whole group. The group lives on while any rank does, launcher or not."""
    for signum, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, signum)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while time.monotonic() < until and _group_lives(process):
            time.sleep(0.05)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader: a zombie would keep the group in existence
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _failure(module: str, code: int, error_file: Path, tail: deque[str]) -> TrainingError:
    if error_file.is_file():
        error = json.loads(error_file.read_text(encoding="utf-8"))
        return TrainingError(error["what"], where=error["where"], do=error["do"])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    said = "\n    ".join(line for line in tail if line.strip()) or "(nothing)"
    return TrainingError(
        f"A process of {module} {how}. Its last words:\n    {said}",
        where=module,
        do="If it was killed (SIGKILL, -9), the machine ran out of memory: lower engine.micro_batch or "
        "engine.num_processes. The whole standard error is in the step's compute logs.",
    )
