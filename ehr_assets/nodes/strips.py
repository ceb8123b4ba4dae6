"""The questions and answers of a labelling on their way: arrays on disk that its workers share.

Each MEDS file answers in the order of its own subjects, per task in one strip; laid out, the strips of all
files are one task's answers in the order of the nodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ehr_assets.meds.reading import deaths_in_doubt
from ehr_assets.nodes.frames import read_nodes
from ehr_assets.nodes.plan import TaskPlan
from ehr_assets.nodes.rules import Answers, Mask
from ehr_assets.nodes.stream import Ints
from ehr_assets.nodes.trigger_spec import NodesSpec

_STRIP = np.dtype([("reason", "u1"), ("value", "i1"), ("status", "i1"), ("end", "<i8")])


@dataclass(frozen=True)
class Questions:
    """All nodes, by subject and time, as arrays that every worker maps into memory."""

    subject: Ints
    t: Ints
    triggers: np.ndarray  # (nodes, triggers) bool
    in_doubt: Ints  # subjects whose death may be missing, sorted

    @staticmethod
    def lay_out(nodes_spec: NodesSpec, nodes_dir: Path, meds_dir: Path, work: Path) -> None:
        nodes = read_nodes(nodes_dir)
        held = [nodes["trigger"].list.contains(t.name).to_numpy() for t in nodes_spec.triggers]
        np.save(work / "subject.npy", nodes["subject_id"].to_numpy())
        np.save(work / "t.npy", nodes["time"].dt.timestamp("us").to_numpy())
        np.save(work / "triggers.npy", np.stack(held, axis=1))
        np.save(work / "in_doubt.npy", np.array(sorted(deaths_in_doubt(meds_dir)), np.int64))

    @classmethod
    def read(cls, work: Path) -> "Questions":
        parts = ("subject", "t", "triggers", "in_doubt")
        return cls(*(np.load(work / f"{name}.npy", mmap_mode="r") for name in parts))

    def asked(self, task: TaskPlan, nodes: Ints) -> Mask:
        """Which of these nodes the task is asked at."""
        if task.asked is None:
            return np.ones(len(nodes), bool)
        return np.any(self.triggers[nodes][:, list(task.asked)], axis=1)


class Strips:
    """What one MEDS file answers: the positions of its nodes, and per task the answers where it is asked."""

    def __init__(self, work: Path, name: str) -> None:
        self.folder = work / "strips" / name
        self.folder.mkdir(parents=True)
        self._append("nodes", b"")

    def nodes(self, positions: Ints) -> None:
        self._append("nodes", positions.astype("<i8").tobytes())

    def add(self, task: int, answers: Answers, numbers: bool) -> None:
        strip = np.empty(len(answers.reason), _STRIP)
        for name in _STRIP.names or ():
            strip[name] = getattr(answers, name)
        self._append(str(task), strip.tobytes())
        if numbers:
            self._append(f"{task}-numbers", answers.number.astype("<f8").tobytes())

    def _append(self, name: str, data: bytes) -> None:
        with (self.folder / name).open("ab") as f:
            f.write(data)

    @staticmethod
    def folders(work: Path) -> list[Path]:
        return sorted((work / "strips").glob("*"))

    @classmethod
    def all_nodes(cls, work: Path) -> Iterator[Ints]:
        for folder in cls.folders(work):
            yield np.fromfile(folder / "nodes", "<i8")

    @classmethod
    def of_task(cls, work: Path, task: TaskPlan, number: int, questions: Questions) -> "Laid":
        """One task's answers at all its nodes, in the order of the nodes."""
        n = len(questions.subject)
        strip = np.zeros(n, _STRIP)
        numbers = np.full(n, np.nan) if task.target else None
        for folder, nodes in zip(cls.folders(work), cls.all_nodes(work), strict=True):
            mine = nodes[questions.asked(task, nodes)]
            if len(mine):
                strip[mine] = np.fromfile(folder / str(number), _STRIP)
                if numbers is not None:
                    numbers[mine] = np.fromfile(folder / f"{number}-numbers", "<f8")
        asked = np.flatnonzero(questions.asked(task, np.arange(n)))
        return Laid(asked, strip[asked], None if numbers is None else numbers[asked])


@dataclass(frozen=True)
class Laid:
    """A task's answers; `asked`: the positions of their nodes."""

    asked: Ints
    strip: np.ndarray
    numbers: np.ndarray | None
