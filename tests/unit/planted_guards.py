"""Every leak guard as one call: whether it lets a chain pass, asked exactly as its check asks it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from planted_support import MAX_TOKENS, Chain, Matrix

from ehr_assets.corpora.audit import subjects_by_file, texts_that_saw_the_future
from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.embeddings.windows import Windows
from ehr_assets.leakage import guarded
from ehr_assets.leakage.availability import known_when_declared
from ehr_assets.leakage.deletion import features_without_future, sampled_cuts
from ehr_assets.leakage.duplicates import near_duplicates
from ehr_assets.leakage.findings import Finding
from ehr_assets.leakage.fits import fitted_on_subjects, read_fitted_on
from ehr_assets.leakage.in_window import newest_known, newest_known_in_window
from ehr_assets.leakage.permutation import chance_when_permuted
from ehr_assets.leakage.persons import persons_in_one_split
from ehr_assets.leakage.planting import features_before_planted, nodes_before_planted, text_before_planted
from ehr_assets.leakage.proof import CohortFiles, fits_proved
from ehr_assets.leakage.subjects import splits_agree, splits_disjoint
from ehr_assets.leakage.univariate import Outcomes, single_features
from ehr_assets.leakage.windows import future_in_windows
from ehr_assets.lineage.ancestry import disagreements
from ehr_assets.meds.audit import subjects_by_folder
from ehr_assets.meds.reading import train_subjects
from ehr_assets.nodes.frames import read_nodes
from ehr_assets.nodes.judge import judge_labels
from ehr_assets.nodes.recompute import nodes_without_future
from ehr_assets.probes.frames import CohortNodes


def passes(findings: Sequence[Finding]) -> bool:
    assert findings, "a guard that finds nothing has not run"
    return all(f.verdict != "fail" for f in findings)


def _cuts(chain: Chain) -> pl.DataFrame:
    return sampled_cuts(read_nodes(chain.nodes), 40, 0)


def _at_cuts(chain: Chain) -> Callable[[Path], Matrix]:
    nodes = chain.loaded
    at = nodes.frame.with_row_index("row").join(_cuts(chain), on="node_id", how="semi")
    return chain.features(guarded.some_nodes(nodes, at["row"].cast(pl.Int64).to_numpy()))


def _outcomes(nodes: CohortNodes) -> dict[str, np.ndarray]:
    return {task.name: task.y for task in nodes.tasks}


def labels_guard(chain: Chain) -> bool:
    return judge_labels(chain.tasks, chain.nodes_spec, chain.labels, chain.meds).ok


def tokenizer_guard(chain: Chain) -> bool:
    train = train_subjects({chain.cohort: chain.meds}, {chain.cohort: chain.splits[chain.cohort]})
    return all(
        fitted_on_subjects(read_fitted_on(folder), train).ok for folder in (chain.tokenizer, chain.checkpoint)
    )


def corpus_guard(chain: Chain) -> bool:
    return splits_agree(subjects_by_file(chain.corpus), chain.split).ok


def text_guard(chain: Chain) -> bool:
    _, wrong = texts_that_saw_the_future(
        chain.corpus_spec, chain.corpus, chain.tokenizer, {chain.cohort: chain.meds}, records=24
    )
    return wrong == 0


def _newest(chain: Chain) -> tuple[pl.DataFrame, pl.DataFrame]:
    nodes, corpus = read_nodes(chain.nodes).head(200), TokenCorpus(chain.corpus)
    rows = []
    for node, subject, t in nodes.select("node_id", "subject_id", "time").iter_rows():
        record = corpus.find(chain.cohort, subject)
        assert record is not None
        known = record.available[chain.window(record, np.datetime64(t, "us"))]
        rows.append((node, known[~np.isnat(known)].max().item() if (~np.isnat(known)).any() else None))
    schema = {"node_id": pl.String, "available_time": pl.Datetime("us")}
    return nodes, pl.DataFrame(rows, schema=schema, orient="row")


def window_guard(chain: Chain) -> bool:
    return future_in_windows(*_newest(chain)).ok


def newest_guard(chain: Chain) -> bool:
    nodes, newest = _newest(chain)
    return passes([newest_known_in_window("r", newest_known(chain.meds, nodes), newest)])


def planted_guard(chain: Chain) -> bool:
    cuts = _cuts(chain)
    corpus = TokenCorpus(chain.corpus)
    stored = guarded.stored_windows(corpus, chain.cohort, cuts.head(8), Windows(MAX_TOKENS))
    anew = guarded.windows_of_events(
        chain.corpus_spec, chain.tokenizer, chain.meds, cuts.head(8), Windows(MAX_TOKENS)
    )
    return passes(
        [
            features_before_planted(_at_cuts(chain), chain.cohort, chain.meds, cuts, chain.folder("f")),
            nodes_before_planted(
                chain.nodes_spec, chain.cohort, chain.nodes, chain.meds, cuts, chain.folder("n")
            ),
            text_before_planted(stored, anew, chain.cohort, chain.meds, cuts.head(8)),
        ]
    )


def deletion_guard(chain: Chain) -> bool:
    at, cuts = _at_cuts(chain), _cuts(chain)
    return passes([features_without_future(at, chain.cohort, chain.meds, cuts, chain.folder("d"))])


def univariate_guard(chain: Chain) -> bool:
    nodes = chain.loaded
    X, names = chain.features(nodes)(chain.meds)
    y = _outcomes(nodes)
    outcomes = Outcomes(list(y), np.stack(list(y.values()), axis=1))
    return passes(single_features(chain.cohort, X, names, outcomes, nodes.subject_id, nodes.split))


def permutation_guard(chain: Chain) -> bool:
    nodes = chain.loaded
    X, _ = chain.features(nodes)(chain.meds)
    # Few columns are enough to see whether a fit is honest.
    return passes(
        chance_when_permuted(chain.cohort, chain.fit(X[:, :60], nodes), _outcomes(nodes), nodes.split)
    )


def proof_guard(chain: Chain) -> bool:
    files = CohortFiles(chain.nodes, chain.labels, chain.splits[chain.cohort])
    return passes(fits_proved("r", chain.fits, {chain.cohort: files}))


def nodes_guard(chain: Chain) -> bool:
    return nodes_without_future(chain.nodes_spec, chain.cohort, chain.nodes, chain.meds, subjects=60).ok


GUARDS: dict[str, Callable[[Chain], bool]] = {
    "splits_disjoint": lambda c: (
        splits_disjoint(pl.read_parquet(c.splits[c.cohort] / "subject_splits.parquet")).ok
    ),
    "files_follow_splits": lambda c: splits_agree(subjects_by_folder(c.meds), c.split).ok,
    "persons_in_one_split": lambda c: passes(persons_in_one_split("r", c.splits)),
    "no_near_duplicates": lambda c: passes([near_duplicates("r", {c.cohort: c.meds}, {c.cohort: c.split})]),
    "known_when_declared": lambda c: passes(known_when_declared(c.rules, c.cohort, c.meds)),
    "nodes_stand_without_future": nodes_guard,
    "labels_keep_window": labels_guard,
    "fitted_on_train_only": tokenizer_guard,
    "subjects_in_their_splits": corpus_guard,
    "same_text_without_the_future": text_guard,
    "windows_hold_no_future": window_guard,
    "newest_known_in_window": newest_guard,
    "features_without_future": deletion_guard,
    "planted_future_changes_nothing": planted_guard,
    "no_single_feature_tells": univariate_guard,
    "permuted_labels_at_chance": permutation_guard,
    "fits_proved": proof_guard,
    "common_ancestry": lambda c: not disagreements({k: dict(v) for k, v in c.ancestors.items()}),
}
