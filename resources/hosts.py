"""The hosts that a training runs on, and the commands and environments of its processes there."""

import base64
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ehr_assets.errors import TrainingError

_LINE = re.compile(r"^(?P<name>[\w.@-]+)\s+slots=(?P<slots>[1-9]\d*)$")

_PASSED_ON = re.compile(r"^(PYTHONPATH|OMP_|DS_ACCELERATOR|TOKENIZERS_|NCCL_|GLOO_|TORCH_|HF_HOME|HF_HUB_)")
_NEVER = re.compile(r"TOKEN$|SECRET|PASSWORD|KEY")
"""A remote command line can be read by everybody on that host."""


@dataclass(frozen=True)
class Host:
    """A machine and how many processes it takes."""

    name: str
    slots: int


def read_hosts(lines: Iterable[str], where: str) -> list[Host]:
    """Hosts out of lines ``name slots=n``, as in a hostfile of DeepSpeed or MPI; `#` begins a comment.

    Raises:
        TrainingError: a line is something else, or a host comes twice.
    """
    hosts: list[Host] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.match(text)
        if not found or any(host.name == found["name"] for host in hosts):
            raise TrainingError(
                "This is no host, or one that was named before.",
                where=f"{where}, line {number}",
                do="Write one host per line: NAME slots=PROCESSES. The first is this machine.",
            )
        hosts.append(Host(found["name"], int(found["slots"])))
    return hosts


def spread(hosts: Sequence[Host], processes: int) -> list[Host]:
    """Where so many processes go: the hosts are filled one after the other. No hosts: all on this machine.

    Raises:
        TrainingError: they have too few slots.
    """
    if not hosts:
        return [Host("localhost", processes)]
    used, left = [], processes
    for host in hosts:
        if left:
            used.append(Host(host.name, min(host.slots, left)))
            left -= used[-1].slots
    if left:
        raise TrainingError(
            f"The hosts take {processes - left} processes, the recipe asks for {processes}.",
            where="engine.num_processes",
            do="Name more hosts or slots, or lower engine.num_processes.",
        )
    return used


def commands(
    hosts: Sequence[Host], module: str, job_file: Path, env: Mapping[str, str], remote_shell: Sequence[str]
) -> list[list[str]]:
    """One command per host: `deepspeed.launcher.launch` and what it lacks (`training/lean_deepspeed.py`).

    The first host's runs here. The others' are given to the remote shell, to run in this directory with the
    same interpreter; a remote shell that ends closes their standard input, which ends them.

    Raises:
        TrainingError: more processes than GPUs that can be seen.
    """
    ranks = {host.name: devices(host, env, here=n == 0) for n, host in enumerate(hosts)}
    alone = len(hosts) == 1
    address = "127.0.0.1" if alone else hosts[0].name
    port = free_port()
    found = []
    for n, host in enumerate(hosts):
        command = node_command(ranks, n, address, port, module, job_file)
        if n:
            settings = [f"{name}={value}" for name, value in sorted(passed_on(env).items())]
            there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(['env', *settings, *command])}"
            command = [*remote_shell, host.name, there]
        found.append(command)
    return found


def node_command(
    ranks: Mapping[str, Sequence[int | str]], n: int, address: str, port: int, module: str, job_file: Path
) -> list[str]:
    """What starts the ranks of the n-th host.

    ranks: host → the devices of its processes, one each. address, port: where the ranks meet.
    """
    return [
        sys.executable,
        *("-m", "ehr_assets.training.lean_deepspeed"),
        f"--world_info={base64.urlsafe_b64encode(json.dumps(ranks).encode()).decode()}",
        f"--node_rank={n}",
        *(f"--master_addr={address}", f"--master_port={port}"),
        *("--log_level=warning", "--no_local_rank", "--module"),
        *(module, str(job_file)),
    ]


def passed_on(env: Mapping[str, str]) -> dict[str, str]:
    """What processes on other hosts are given of this one's environment: no secret."""
    return {k: v for k, v in env.items() if _PASSED_ON.search(k) and not _NEVER.search(k)}


def devices(host: Host, env: Mapping[str, str], *, here: bool) -> list[int | str]:
    """What DeepSpeed's launcher makes the host's CUDA_VISIBLE_DEVICES: of this one, what the user made it.

    Raises:
        TrainingError: the user let fewer devices be seen than there are processes.
    """
    if env.get("DS_ACCELERATOR") == "cpu":
        return [-1] * host.slots  # no device, which hides them all
    named = env.get("CUDA_VISIBLE_DEVICES") if here else None
    if named is None:
        return list(range(host.slots))
    seen: list[int | str] = [device.strip() for device in named.split(",") if device.strip()]
    if len(seen) < host.slots:
        raise TrainingError(
            f"{host.slots} processes are to run here, but {len(seen)} GPUs can be seen.",
            where="engine.num_processes, CUDA_VISIBLE_DEVICES",
            do="Let more GPUs be seen, or lower engine.num_processes.",
        )
    return seen[: host.slots]


def environment(processes: int, cores: int, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Threads per process of a host, and the CPU where there is no GPU. The user's own settings win.

    PASSIVE because OpenMP's threads otherwise spin while they wait: with more of them than free cores
    (another step on this machine is enough) a training was seen to become 60 times slower.

    own: the user's settings; by default this process's environment.
    """
    own = os.environ if own is None else own
    env = {
        "OMP_NUM_THREADS": str(max(1, (cores or _cores()) // processes)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not _has_gpu(own):
        env["DS_ACCELERATOR"] = "cpu"
    return {name: value for name, value in env.items() if name not in own}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu(own: Mapping[str, str]) -> bool:
    """Whether there is an NVIDIA device; asked without importing torch into the Dagster process."""
    hidden = own.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and Path("/dev/nvidiactl").exists()


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
