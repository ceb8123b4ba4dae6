"""An embedded cohort at a chosen size, from raw tables to the token corpus, in plain folders."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.cohorts.synthetic.simulate import simulate
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.spec import load_corpus
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from ehr_assets.nodes.triggers import find_nodes

PACKAGE = Path(__file__).parents[2] / "ehr_assets"
NAME = "synthetic_oncology"


@dataclass
class World:
    """Folders under `root`, each made when it is first asked for."""

    root: Path
    subjects: int
    seed: int = 5
    name: str = NAME

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        self.cohort = load_cohort(PACKAGE / "cohorts" / "specs" / f"{self.name}.yaml")
        self.corpus_spec = load_corpus(PACKAGE / "corpora" / "specs" / f"{self.name}_tagged.yaml")

    def _new(self, name: str) -> Path:
        path = self.root / name
        path.mkdir()
        return path

    @cached_property
    def raw(self) -> Path:
        tables = self._new("raw")
        simulator = self.name.removeprefix("synthetic_")
        simulate(simulator, tables, self._new("truth"), subjects=self.subjects, seed=self.seed)
        return tables

    @cached_property
    def splits(self) -> Path:
        out = self._new("splits")
        write_splits(self.cohort, self.raw, out)
        return out

    @cached_property
    def meds(self) -> Path:
        return self.extract("meds")

    def extract(self, name: str) -> Path:
        """Extracts the raw tables into a new folder."""
        out = self._new(name)
        extract_meds(self.cohort, self.raw, self.splits / "subject_splits.parquet", out)
        return out

    @cached_property
    def nodes(self) -> Path:
        out = self._new("nodes")
        find_nodes(self.cohort.decision_nodes, self.name, self.meds, out)
        return out

    @cached_property
    def tokenizer(self) -> Path:
        out = self._new("tokenizer")
        train_tokenizer(self.corpus_spec, {self.name: self.meds}, {self.name: self.splits}, out)
        return out

    @cached_property
    def corpus(self) -> Path:
        out = self._new("corpus")
        write_corpus(self.corpus_spec, {self.name: self.meds}, self.tokenizer, out)
        return out

    @cached_property
    def events(self) -> int:
        return pl.scan_parquet(self.meds / "data" / "**" / "*.parquet").select(pl.len()).collect().item()
