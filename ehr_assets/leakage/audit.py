"""All guards of a cohort, and all of a recipe, cheap ones first: what they found is `findings.parquet`.

What a guard asks is its own module's; here is only which guards there are and what each is given.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.embeddings.windows import Windows
from ehr_assets.leakage import guarded
from ehr_assets.leakage.accepted_spec import AcceptedFeature
from ehr_assets.leakage.availability import known_when_declared
from ehr_assets.leakage.availability_spec import AvailabilityRule
from ehr_assets.leakage.deletion import features_without_future, sampled_cuts
from ehr_assets.leakage.duplicates import near_duplicates
from ehr_assets.leakage.findings import Finding, write_findings
from ehr_assets.leakage.in_window import (
    newest_known,
    newest_known_in_window,
    outcome_patterns,
    outcomes_known_at_nodes,
)
from ehr_assets.leakage.permutation import chance_when_permuted
from ehr_assets.leakage.persons import persons_in_one_split
from ehr_assets.leakage.planting import features_before_planted, nodes_before_planted, text_before_planted
from ehr_assets.leakage.univariate import Outcomes, at_most, single_features
from ehr_assets.meds.splits import read_splits
from ehr_assets.nodes.frames import read_nodes
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.probes.frames import CohortDirs, CohortNodes, load_embeddings, load_nodes
from ehr_assets.progress import Progress, no_progress

Guard = Callable[[Path], Sequence[Finding]]
"""A scratch folder, empty and of its own → what it found."""

SUBJECTS = 64
"""Sampled per cohort for what is recomputed from changed records."""
TEXTS = 32
NEWEST_NODES = 5_000
MOST_NODES = 40_000
"""Nodes whose features or states are looked at, of whole subjects: a leak shows in as many, and they fit."""
TASKS_OF_FEATURES = 6
TASKS_OF_EMBEDDINGS = 12
"""Refitted with permuted outcomes: a fit on hundreds of features costs more than one on an embedding."""


@dataclass(frozen=True)
class CohortInputs:
    """A cohort's datasets."""

    name: str
    meds: Path
    splits: Path
    nodes: Path
    labels: Path

    @property
    def dirs(self) -> CohortDirs:
        return CohortDirs(self.nodes, self.labels, self.splits)


@dataclass(frozen=True)
class Said:
    """What a cohort's spec says. `outcomes`: `derived` and `tasks` of its task file, as dumped."""

    nodes_spec: NodesSpec
    rules: Sequence[AvailabilityRule]
    outcomes: Mapping[str, Any]
    accepted: Sequence[AcceptedFeature] = ()


def audit_cohort(
    cohort: CohortInputs, said: Said, out_dir: Path, *, seed: int = 0, progress: Progress = no_progress
) -> dict[str, int]:
    """Writes the findings about a cohort's records, nodes, labels and features. Returns counts by verdict."""
    nodes = load_nodes(cohort.name, cohort.dirs)
    table = read_nodes(cohort.nodes)
    cuts = sampled_cuts(table, SUBJECTS, seed)
    derived = said.outcomes.get("derived") or {}
    patterns = {task["name"]: outcome_patterns(task, derived) for task in said.outcomes["tasks"]}

    def of_features(scratch: Path) -> list[Finding]:
        at_cuts = guarded.features_at(_cut_nodes(nodes, cuts))
        return [
            features_without_future(at_cuts, cohort.name, cohort.meds, cuts, scratch / "deleted"),
            features_before_planted(at_cuts, cohort.name, cohort.meds, cuts, scratch / "planted"),
        ]

    def of_scores(scratch: Path) -> list[Finding]:
        some = guarded.some_nodes(nodes, at_most(MOST_NODES, nodes.subject_id, seed))
        X, names = guarded.features_at(some)(cohort.meds)
        return _scores(cohort.name, some, X, names, TASKS_OF_FEATURES, said.accepted, seed)

    guards: list[Guard] = [
        lambda _: persons_in_one_split(cohort.name, {cohort.name: cohort.splits}),
        lambda _: known_when_declared(said.rules, cohort.name, cohort.meds),
        lambda _: outcomes_known_at_nodes(cohort.name, patterns, table, cohort.meds),
        lambda _: [_duplicates(cohort.name, [cohort])],
        lambda scratch: [
            nodes_before_planted(said.nodes_spec, cohort.name, cohort.nodes, cohort.meds, cuts, scratch)
        ],
        of_features,
        of_scores,
    ]
    return _run(guards, out_dir, progress)


def audit_recipe(
    recipe: str,
    corpus_spec: CorpusSpec,
    corpus_dir: Path,
    tokenizer_dir: Path,
    embeddings_dir: Path,
    cohorts: Sequence[CohortInputs],
    windows: Windows,
    out_dir: Path,
    accepted: Mapping[str, Sequence[AcceptedFeature]] | None = None,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Writes the findings about what one model saw: its cohorts together, its windows, its embeddings."""
    corpus = TokenCorpus(corpus_dir)
    guards: list[Guard] = [
        lambda _: persons_in_one_split(recipe, {c.name: c.splits for c in cohorts}),
    ]
    if len(cohorts) > 1:  # of one alone, its own audit has told
        guards.append(lambda _: [_duplicates(recipe, cohorts)])

    def of(cohort: CohortInputs) -> Guard:
        def text(_: Path) -> list[Finding]:
            table = read_nodes(cohort.nodes)
            cuts = sampled_cuts(table, TEXTS, seed)
            some = table.sample(min(NEWEST_NODES, table.height), seed=seed).sort("subject_id", "time")
            stored = guarded.stored_windows(corpus, cohort.name, cuts, windows)
            anew = guarded.windows_of_events(corpus_spec, tokenizer_dir, cohort.meds, cuts, windows)
            newest = guarded.newest_read(corpus, embeddings_dir, cohort.name, some)
            return [
                text_before_planted(stored, anew, recipe, cohort.meds, cuts),
                newest_known_in_window(recipe, newest_known(cohort.meds, some), newest),
            ]

        return text

    def scores_of(cohort: CohortInputs) -> Guard:
        def scores(_: Path) -> list[Finding]:
            nodes = load_nodes(cohort.name, cohort.dirs)
            X = load_embeddings(embeddings_dir, nodes)
            names = [f"dimension {j}" for j in range(X.shape[1])]
            # A node without a finite state is none that a probe is fitted on or scores.
            usable = np.flatnonzero(np.isfinite(X).all(axis=1))
            usable = usable[at_most(MOST_NODES, nodes.subject_id[usable], seed)]
            found = guarded.some_nodes(nodes, usable)
            allowed = (accepted or {}).get(cohort.name, ())
            return _scores(recipe, found, X[usable], names, TASKS_OF_EMBEDDINGS, allowed, seed)

        return scores

    guards += [_about(cohort.name, make(cohort)) for cohort in cohorts for make in (of, scores_of)]
    return _run(guards, out_dir, progress)


def _scores(
    scope: str,
    nodes: CohortNodes,
    X: np.ndarray,
    names: Sequence[str],
    most_tasks: int,
    accepted: Sequence[AcceptedFeature],
    seed: int,
) -> list[Finding]:
    """What single features tell, and what a fit finds in permuted outcomes."""
    binary = {task.name: task.y for task in nodes.tasks if task.kind == "binary"}
    y = np.stack(list(binary.values()), axis=1) if binary else np.zeros((len(X), 0))
    return [
        *single_features(
            scope, X, names, Outcomes(list(binary), y), nodes.subject_id, nodes.split, seed, accepted
        ),
        *chance_when_permuted(
            scope, guarded.logistic_on(X, nodes), binary, nodes.split, most_tasks=most_tasks, seed=seed
        ),
    ]


def _about(cohort: str, guard: Guard) -> Guard:
    """The guard's findings, each saying that it is about this cohort."""

    def told(scratch: Path) -> list[Finding]:
        return [replace(f, about=f"{cohort}: {f.about}" if f.about else cohort) for f in guard(scratch)]

    return told


def _duplicates(scope: str, cohorts: Sequence[CohortInputs]) -> Finding:
    splits = {c.name: read_splits(c.splits) for c in cohorts}
    return near_duplicates(scope, {c.name: c.meds for c in cohorts}, splits)


def _cut_nodes(nodes: CohortNodes, cuts: pl.DataFrame) -> CohortNodes:
    at = nodes.frame.select("node_id").with_row_index("row").join(cuts, on="node_id", how="semi")
    return guarded.some_nodes(nodes, at["row"].cast(pl.Int64).to_numpy())


def _run(guards: Sequence[Guard], out_dir: Path, progress: Progress) -> dict[str, int]:
    findings: list[Finding] = []
    for done, guard in enumerate(guards):
        progress("guards", done, len(guards))
        with tempfile.TemporaryDirectory() as scratch:
            findings += guard(Path(scratch))
    progress("guards", len(guards), len(guards))
    write_findings(findings, out_dir)
    verdicts = [f.verdict for f in findings]
    return {"findings": len(findings), "failed": verdicts.count("fail"), "warned": verdicts.count("warn")}
