"""The questions and answers of a labelling on their way: arrays on disk that its workers share.

Each MEDS file answers in the order of its own subjects, per task in one strip; laid out, the strips of all
files are one task's answers in the order of the nodes.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from ehr_assets.meds.reading import deaths_in_doubt
from ehr_assets.nodes.frames import read_nodes
from ehr_assets.nodes.plan import TaskPlan
from ehr_assets.nodes.rules import Answers, Mask
from ehr_assets.nodes.stream import Ints
from ehr_assets.nodes.trigger_spec import NodesSpec

_NODES = -1
FIELDS = ("end", "reason", "value", "status")
# Padded to 16 bytes, which numpy moves as fast as numbers.
_STRIP = np.dtype(
    {"names": FIELDS, "formats": ["<i8", "u1", "i1", "i1"], "offsets": [0, 8, 9, 10], "itemsize": 16}
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
    """What one MEDS file answers: the positions of its nodes, and per task the answers where it is asked.

    A context manager that writes one file, and beside it where in it each strip stands.
    """

    def __init__(self, work: Path, name: str) -> None:
        folder = work / "strips"
        folder.mkdir(exist_ok=True)
        self._path = folder / f"{name}.bin"
        self._file = self._path.open("wb")  # anew, if a worker was lost in the middle of it
        self._index: list[tuple[int, int, int]] = []  # what, where it begins, how many

    def __enter__(self) -> "Strips":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        np.save(self._path.with_suffix(".npy"), np.array(self._index, np.int64).reshape(-1, 3))

    def nodes(self, positions: Ints) -> None:
        self._append(_NODES, positions.astype("<i8"))

    def add(self, task: int, answers: Answers, numbers: bool) -> None:
        strip = np.zeros(len(answers.reason), _STRIP)
        for name in FIELDS:
            strip[name] = getattr(answers, name)
        self._append(2 * task, strip)
        if numbers:
            self._append(2 * task + 1, answers.number.astype("<f8"))

    def _append(self, what: int, values: np.ndarray) -> None:
        self._index.append((what, self._file.tell(), len(values)))
        self._file.write(values.data)

    @staticmethod
    def _read(work: Path, what: int, dtype: "np.dtype[np.void] | str") -> Iterator[np.ndarray]:
        """In the order of the files, and in each in the order of its chunks."""
        for path in sorted((work / "strips").glob("*.bin")):
            index = _index(path)
            for begins, count in index[index[:, 0] == what, 1:].tolist():
                yield np.fromfile(path, dtype, count, offset=begins)

    @classmethod
    def all_nodes(cls, work: Path) -> Iterator[Ints]:
        yield from cls._read(work, _NODES, "<i8")

    @classmethod
    def of_task(cls, work: Path, task: TaskPlan, number: int) -> "Laid":
        """One task's answers at all its nodes, in the order of the nodes."""
        asked, order = _layout(work, task.asked)

        def laid_out(what: int, dtype: "np.dtype[np.void] | str") -> np.ndarray:
            parts = cls._read(work, what, dtype)
            return np.take(np.concatenate([np.zeros(0, dtype), *parts]), order)

        numbers = laid_out(2 * number + 1, "<f8") if task.target else None
        return Laid(asked, laid_out(2 * number, _STRIP), numbers)


@functools.lru_cache(256)
def _index(path: Path) -> Ints:
    """Kept for the next task; once there, a file of strips does not change."""
    return np.load(path.with_suffix(".npy"))


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
