"""The questions and answers of a labelling on their way: arrays on disk that its workers share.

Each MEDS file answers in the order of its own subjects, per task in one strip; laid out, the strips of all
files are one task's answers in the order of the nodes.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehr_assets.meds.reading import deaths_in_doubt
from ehr_assets.nodes.frames import read_nodes
from ehr_assets.nodes.plan import TaskPlan
from ehr_assets.nodes.rules import Answers, Mask
from ehr_assets.nodes.stream import Ints
from ehr_assets.nodes.trigger_spec import NodesSpec

_NAMES = ("end", "reason", "value", "status")
# Padded to 16 bytes, which numpy moves as fast as numbers.
_STRIP = np.dtype(
    {"names": _NAMES, "formats": ["<i8", "u1", "i1", "i1"], "offsets": [0, 8, 9, 10], "itemsize": 16}
)


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

    def asked(self, triggers: tuple[int, ...] | None, nodes: Ints) -> Mask:
        """Which of these nodes have one of the triggers (by position); all, if none are named."""
        if triggers is None:
            return np.ones(len(nodes), bool)
        return np.any(self.triggers[nodes][:, list(triggers)], axis=1)


class Strips:
    """What one MEDS file answers: the positions of its nodes, and per task the answers where it is asked."""

    def __init__(self, work: Path, name: str) -> None:
        self.folder = work / "strips" / name
        self.folder.mkdir(parents=True)
        self._append("nodes", b"")

    def nodes(self, positions: Ints) -> None:
        self._append("nodes", positions.astype("<i8").tobytes())

    def add(self, task: int, answers: Answers, numbers: bool) -> None:
        strip = np.zeros(len(answers.reason), _STRIP)
        for name in _NAMES:
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
    def of_task(cls, work: Path, task: TaskPlan, number: int) -> "Laid":
        """One task's answers at all its nodes, in the order of the nodes."""
        asked, order = _layout(work, task.asked)

        def laid_out(name: str, dtype: "np.dtype[Any] | str") -> np.ndarray:
            parts = [np.fromfile(folder / name, dtype) for folder in cls.folders(work) if _has(folder / name)]
            return np.take(np.concatenate([np.zeros(0, dtype), *parts]), order)

        numbers = laid_out(f"{number}-numbers", "<f8") if task.target else None
        return Laid(asked, laid_out(str(number), _STRIP), numbers)


def _has(path: Path) -> bool:
    """A file without nodes has no strips."""
    return path.is_file()


@functools.lru_cache(4)
def _layout(work: Path, triggers: tuple[int, ...] | None) -> tuple[Ints, Ints]:
    """The nodes with one of the triggers, in order; and where, in the strips of all files, each stands."""
    nodes = np.concatenate([np.zeros(0, np.int64), *Strips.all_nodes(work)])
    mine = nodes[Questions.read(work).asked(triggers, nodes)]
    order = np.argsort(mine, kind="stable")
    return mine[order], order


@dataclass(frozen=True)
class Laid:
    """A task's answers; `asked`: the positions of their nodes."""

    asked: Ints
    strip: np.ndarray
    numbers: np.ndarray | None
