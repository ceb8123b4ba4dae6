"""A training's processes on the nodes of a Ray cluster: placed by Ray, started and ended as on any host.

Ray says which nodes take how many (a placement group, a node each) and notices when one is gone. On each node
an actor starts DeepSpeed's launcher as `hosts.py` does over ssh: it holds the launcher's standard input, so
that with the actor, its node or the step that asked for it the processes end too.
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_assets.errors import LostNodeError, TrainingError
from ehr_assets.fanout_ray import connect
from resources.hosts import Host, devices, environment, free_port, node_command, passed_on
from resources.process_groups import TAIL_LINES, Groups

PLACE_SECONDS = 600.0
"""How long the cluster may take to find room: others' work may have to end, or a new node to start."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Wanted:
    """How many processes; how many a node takes, how many cores they share there (0: see the launcher); and
    the seconds between TERM and KILL."""

    processes: int
    slots: int
    cores: int
    grace: float


class NodePart:
    """The processes of one node; an actor. What it is given must not hold a secret: Ray keeps arguments."""

    def __init__(self, slots: int, cores: int, folder: str, given: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):  # of a step that is a job itself, it is on its own node alone
            os.chdir(folder)
        self._slots, self._groups = slots, None
        self._lines: deque[str] = deque(maxlen=10_000)
        # Ray's own idea of a worker's threads is not the user's.
        own = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | dict(given)
        self._env = own | environment(slots, cores, own)

    def about(self) -> tuple[str, int, list[int | str]]:
        """This node's address, a port that is free on it, and the devices of its processes."""
        import ray

        found = devices(Host("", self._slots), self._env, here=True)
        return ray.util.get_node_ip_address(), free_port(), found

    def start(self, command: list[str], also: Mapping[str, str]) -> None:
        # Ray kills the children of a worker that ends: a shell. Its own child, the launcher, lives to see its
        # standard input close, and ends the ranks, which nobody else would do.
        shell = ["sh", "-c", '"$@"; exit $?', "sh"]
        self._groups = Groups([[*shell, *command]], {**self._env, **also}, self._lines.append)
        self._groups.start()

    def state(self) -> tuple[int | None, list[str]]:
        """The exit code, once there is one, and what was written to standard error since."""
        code = self._groups.code() if self._groups else None
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return code, lines

    def end(self, grace: float) -> list[str]:
        """No process is left; returns their last words."""
        if self._groups:
            self._groups.end(grace)
        return self.state()[1]


class PlacedGroups:
    """As `process_groups.Groups`, on the nodes of a cluster."""

    def __init__(self, wanted: Wanted) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._wanted = wanted
        self._parts: list[Any] = []
        self._room: Any = None

    def start(self, module: str, job_file: Path, pipes: Mapping[str, str]) -> None:
        """Raises TrainingError: the cluster has no room, or a node was lost at once."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        each, gpus = self._shares()
        self._reserve(each, gpus)
        given = passed_on(os.environ)
        for n, slots in enumerate(each):
            placed = PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=n)
            options = {"num_cpus": slots, "num_gpus": slots if gpus else 0, "scheduling_strategy": placed}
            actor = ray.remote(**options)(NodePart)
            self._parts.append(actor.remote(slots, self._wanted.cores, str(Path.cwd()), given))
        about = self._all("about")
        # By number: a name must be a node's own, and nodes of a test share their address.
        ranks = {f"node-{n}": found for n, (_, _, found) in enumerate(about)}
        address, port, _ = about[0]
        for n, part in enumerate(self._parts):
            command = node_command(ranks, n, address, port, module, job_file)
            # Rank 0 alone speaks with Dagster.
            self._got([part.start.remote(command, dict(pipes) if n == 0 else {})])

    def wait(self) -> int:
        """0 once all have ended well, or the first exit code that is not. TrainingError: a node was lost."""
        while True:
            states = self._all("state")
            for _, lines in states:
                self._tell(lines)
            codes = [code for code, _ in states]
            if bad := [code for code in codes if code]:
                return bad[0]
            if None not in codes:
                return 0
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """Ends the processes on all nodes that can be reached; those of the others end with their node."""
        import ray

        grace = self._wanted.grace
        ending = [part.end.remote(grace) for part in self._parts]
        ended, _ = ray.wait(ending, num_returns=len(ending), timeout=grace + 30) if ending else ([], [])
        for reference in ended:
            with contextlib.suppress(Exception):  # of a lost node
                self._tell(ray.get(reference))
        for part in self._parts:
            ray.kill(part)
        if self._room is not None:
            ray.util.remove_placement_group(self._room)

    def _shares(self) -> tuple[list[int], bool]:
        """How many processes each node takes, and whether they have a GPU each."""
        import ray

        largest = int(max(n["Resources"].get("GPU", 0) for n in ray.nodes() if n["Alive"]))
        slots = self._wanted.slots or largest or 1
        full, rest = divmod(self._wanted.processes, slots)
        return [slots] * full + [rest] * bool(rest), largest > 0

    def _reserve(self, each: list[int], gpus: bool) -> None:
        import ray

        bundles = [{"CPU": float(n)} | ({"GPU": float(n)} if gpus else {}) for n in each]
        self._room = ray.util.placement_group(bundles, strategy="STRICT_SPREAD")
        until = time.monotonic() + PLACE_SECONDS
        while not self._room.wait(timeout_seconds=1):
            if time.monotonic() > until:
                raise TrainingError(
                    f"The cluster has no {len(each)} nodes with room for {each[0]} process(es) each.",
                    where="engine.num_processes, EHR_HOST_SLOTS",
                    do="Wait for other work to end, add nodes, or lower engine.num_processes.",
                )

    def _all(self, method: str) -> list[Any]:
        return self._got([getattr(part, method).remote() for part in self._parts])

    def _got(self, references: list[Any]) -> list[Any]:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        left = references
        while left:  # in slices: a signal must find Python awake
            _, left = ray.wait(left, num_returns=len(left), timeout=1)
        try:
            return ray.get(references)
        except RayActorError as e:
            raise LostNodeError(
                f"A node of the cluster was lost, or its worker was killed ({type(e).__name__}).",
                where="the Ray cluster",
                do="Run it again: it goes on where it last kept its state, on the nodes that are left.",
            ) from None
        except OutOfMemoryError:
            raise TrainingError(
                "A node's memory ran out, and Ray ended what ran there.",
                where="the Ray cluster",
                do="Lower engine.micro_batch or EHR_HOST_SLOTS; then run it again.",
            ) from None
        except RayTaskError as e:
            raise e.cause if isinstance(e.cause, Exception) else e from None

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self.tail.append(line.rstrip())
            sys.stderr.write(line)


@contextlib.contextmanager
def placed_groups(
    address: str, wanted: Wanted, module: str, job_file: Path, pipes: Mapping[str, str]
) -> Iterator[PlacedGroups]:
    """The ranks of `module` on the cluster's nodes; however the block ends, none of them is left.

    Args:
        address: of the cluster. job_file: where all its nodes see it.
        pipes: environment of rank 0's node, by which it speaks with Dagster.
    """
    connect(address)
    groups = PlacedGroups(wanted)
    try:
        groups.start(module, job_file, pipes)
        yield groups
    finally:
        groups.end()
