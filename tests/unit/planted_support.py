"""A clean chain of a simulated cohort, and how a copy of it is spoiled.

A leak is planted by replacing a part of the chain (`Chain`); a guard (`planted_guards.py`) is then asked of
the whole, exactly as its check asks it.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from simulators_support import Simulated

from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.embeddings.windows import Windows
from ehr_assets.leakage import guarded
from ehr_assets.leakage.audit import CohortInputs
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.lineage.manifest import InputEntry
from ehr_assets.meds.splits import read_splits
from ehr_assets.nodes.frames import read_labels, read_nodes
from ehr_assets.nodes.task_spec import TaskSet, load_task_set, task_set_path
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.probes.frames import CohortNodes, load_nodes

SUBJECTS = 150
MAX_TOKENS = 256
T, KNOWN = pl.col("time"), pl.col("available_time")
TASKS = ("progression_any_180d", "mortality_365d")
"""Two of the cohort's tasks, for what is fitted."""
TASK = TASKS[0]

Matrix = tuple[np.ndarray, list[str]]


@dataclass(frozen=True)
class Chain:
    """What guards are asked about: files, and the functions that read them.

    Attributes:
        splits: cohort → subject_splits folder, of all cohorts used together; the first is `cohort`'s.
        features: (nodes, their labels included) → features of a MEDS folder.
        fit: (features, nodes) → a fit as `chance_when_permuted` wants it.
        window: (record, t) → positions of the tokens that are read.
        ancestors: name → data version → entry, as lineage finds them.
    """

    root: Path
    cohort: str
    meds: Path
    splits: Mapping[str, Path]
    nodes: Path
    labels: Path
    tokenizer: Path
    corpus: Path
    fits: Path
    checkpoint: Path
    nodes_spec: NodesSpec
    tasks: TaskSet
    corpus_spec: CorpusSpec
    rules: Sequence[Any]
    features: Callable[[CohortNodes], Callable[[Path], Matrix]]
    fit: Callable[..., Any]
    window: Callable[..., np.ndarray]
    ancestors: Mapping[str, Mapping[str, InputEntry]]

    def with_(self, **parts: Any) -> "Chain":
        return replace(self, **parts)

    @property
    def inputs(self) -> CohortInputs:
        return CohortInputs(self.cohort, self.meds, self.splits[self.cohort], self.nodes, self.labels)

    @property
    def loaded(self) -> CohortNodes:
        nodes = load_nodes(self.cohort, self.inputs.dirs)
        return replace(nodes, tasks=[t for t in nodes.tasks if t.name in TASKS])

    @property
    def split(self) -> pl.DataFrame:
        return read_splits(self.splits[self.cohort])

    def subjects(self, *names: str) -> list[int]:
        return self.split.filter(pl.col("split").is_in(names))["subject_id"].to_list()

    def folder(self, name: str) -> Path:
        """A new, empty one."""
        return Path(mkdtemp(prefix=name, dir=self.root))

    def events(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
        """A copy of the MEDS folder, every file changed."""
        out = self.folder("meds") / "meds"
        shutil.copytree(self.meds, out)
        for path in out.glob("data/*/*.parquet"):
            rewrite(path, change)
        return out

    def changed(self, part: str, file: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> "Chain":
        """With a copy of a folder (nodes, labels), one of its files changed."""
        out = self.folder(part) / part
        shutil.copytree(getattr(self, part), out)
        rewrite(out / file, change)
        return self.with_(**{part: out})

    def dealt(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> "Chain":
        """With other splits."""
        out = self.folder("splits") / "splits"
        shutil.copytree(self.splits[self.cohort], out)
        rewrite(out / "subject_splits.parquet", change)
        return self.with_(splits={**self.splits, self.cohort: out})

    def fitted(self, *entries: tuple[Any, ...]) -> "Chain":
        """With these entries in the ledger: step, task, subjects, role."""
        ledger = FitLedger()
        for step, task, subjects, role in entries:
            ledger.saw(step, self.cohort, task, subjects, role)
        return self.with_(fits=write_fits(self.folder("fits"), ledger))


LEAKS: list["Leak"] = []
"""All leaks of the suite, in the order in which their files are imported."""


@dataclass(frozen=True)
class Leak:
    """`plant` spoils a chain; `guard` names the one that must refuse it."""

    name: str
    guard: str
    plant: Callable[[Chain], Chain]


def leak(guard: str) -> Callable[[Callable[[Chain], Chain]], Callable[[Chain], Chain]]:
    """Puts a leak into the suite: its name is the function's."""

    def register(plant: Callable[[Chain], Chain]) -> Callable[[Chain], Chain]:
        LEAKS.append(Leak(plant.__name__, guard, plant))
        return plant

    return register


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    schema = pq.read_schema(path)
    frame = change(pl.DataFrame(pq.read_table(path)))
    pq.write_table(frame.select(schema.names).to_arrow().cast(schema), path)


def write_fits(folder: Path, ledger: FitLedger) -> Path:
    (folder / "fitted_on.json").write_text(json.dumps({"steps": ledger.document()}))
    return folder


def usable_subjects(chain: Chain, task: str, *splits: str) -> list[int]:
    """With a label of the task, read off its file."""
    labels = read_labels(chain.labels, task).filter(pl.col("boolean_value").is_not_null())
    return sorted(set(labels["subject_id"]) & set(chain.subjects(*splits)))


def honest_entries(chain: Chain, task: str = TASKS[0]) -> list[tuple[Any, ...]]:
    """The fits of one task as they should be."""
    train, tuning = (usable_subjects(chain, task, split) for split in ("train", "tuning"))
    with_nodes = set(read_nodes(chain.nodes)["subject_id"]) & set(chain.subjects("train"))
    return [
        ("vocabulary", None, with_nodes, "fitted"),
        ("scaler", task, train, "fitted"),
        ("pca", task, train, "fitted"),
        ("logistic", task, train, "fitted"),
        ("folds", task, [*train, *tuning], "chosen"),
        ("boosted", task, tuning, "chosen"),
        ("threshold", task, tuning, "chosen"),
    ]


def clean_chain(root: Path) -> Chain:
    """A simulated oncology cohort through extraction, nodes, labels, tokenizer and corpus."""
    world = Simulated.run("oncology", root / "world", SUBJECTS)
    spec = world.spec
    assert spec.decision_nodes
    name, meds, splits = spec.name, world.meds[0], world.splits
    corpus_spec = CorpusSpec.model_validate(
        {
            "name": "c",
            "cohorts": [name],
            "tokenizer": {"kind": "bpe", "vocab_size": 600},
            "context_tokens": 60,
        }
    )
    for folder in ("tokenizer", "corpus", "fits", "checkpoint"):
        (root / folder).mkdir()
    train_tokenizer(corpus_spec, {name: meds}, {name: splits}, root / "tokenizer")
    write_corpus(corpus_spec, {name: meds}, root / "tokenizer", root / "corpus")
    shutil.copy(root / "tokenizer" / "fitted_on.json", root / "checkpoint" / "fitted_on.json")
    chain = Chain(
        root=root,
        cohort=name,
        meds=meds,
        splits={name: splits},
        nodes=world.nodes,
        labels=world.labels,
        tokenizer=root / "tokenizer",
        corpus=root / "corpus",
        fits=root / "fits",
        checkpoint=root / "checkpoint",
        nodes_spec=spec.decision_nodes,
        tasks=load_task_set(task_set_path(spec.decision_nodes.task_set)),
        corpus_spec=corpus_spec,
        rules=spec.availability,
        features=guarded.features_at,
        fit=guarded.logistic_on,
        window=Windows(MAX_TOKENS).at,
        ancestors={f"{name}/subject_splits": {"v1": InputEntry(asset="s", data_version="v1", dataset="d1")}},
    )
    return chain.fitted(*honest_entries(chain))
