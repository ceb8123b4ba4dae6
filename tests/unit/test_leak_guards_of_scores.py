"""The guards that go by scores: single features that tell the outcome, and outcomes that were permuted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_assets.leakage.accepted_spec import AcceptedFeature
from ehr_assets.leakage.permutation import chance_when_permuted, deviation, permuted_within
from ehr_assets.leakage.univariate import Outcomes, at_most, aurocs, single_features

# --- Single features


def test_aurocs_are_those_of_sklearn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 80).astype(float)
    y = rng.integers(0, 2, (80, 3)).astype(float)
    y[rng.random((80, 3)) < 0.2] = np.nan
    y[:, 2] = 1
    found = aurocs(x, y)
    for task in range(2):
        known = ~np.isnan(y[:, task])
        assert found[task] == pytest.approx(roc_auc_score(y[known, task], x[known]))
    assert np.isnan(found[2])
    assert np.isnan(aurocs(x[:0], y[:0])).all()


def named(positives: int, *, development: bool, n: int = 200, accepted=()):
    """A feature that separates held-out nodes perfectly; of development ones it does so, or tells nothing."""
    rng = np.random.default_rng(1)
    split = np.repeat(["train", "held_out"], n)
    y = np.zeros(2 * n)
    y[: n // 4], y[n : n + positives] = 1, 1
    x = y.copy()
    if not development:
        x[:n] = rng.normal(size=n)
    X = np.column_stack([x, rng.normal(size=2 * n)]).astype(np.float32)
    outcomes = Outcomes(["t"], y[:, None])
    names = ["last|told [mg]", "noise"]
    found = single_features("c", X, names, outcomes, np.arange(2 * n), split, accepted=accepted)
    return [(f.about, f.verdict, f.note) for f in found if f.about]


def test_what_few_positives_may_do_by_chance_is_a_warning():
    told = "t: last|told [mg]"
    assert named(5, development=False) == [(told, "warn", "5 positives; may be chance")]
    assert named(5, development=True) == [(told, "fail", "5 positives")]
    assert named(20, development=False) == [(told, "fail", "20 positives")]
    assert named(4, development=True) == []  # not enough to say anything


@pytest.mark.parametrize(
    ("task", "features", "verdict"),
    [
        ("t", ["last|told [mg]"], "warn"),  # as the finding names it, brackets and all
        ("t", ["last|*"], "warn"),
        ("t", ["noise"], "fail"),
        ("another", ["*"], "fail"),
    ],
)
def test_an_accepted_feature_stays_named_with_its_reason(task, features, verdict):
    accepted = [AcceptedFeature(task=task, features=features, because="comfort care is ordered")]
    ((about, said, note),) = named(30, development=True, accepted=accepted)
    assert (about, said) == ("t: last|told [mg]", verdict)
    assert ("comfort care is ordered" in note) == (verdict == "warn")


def test_a_feature_that_is_measured_only_in_those_with_the_outcome_is_named():
    y = np.tile([0.0, 1.0], 100)
    X = np.where(y == 1, 7, np.nan)[:, None].astype(np.float32)
    split = np.repeat(["train", "held_out"], 100)
    found = single_features("c", X, ["lab"], Outcomes(["t"], y[:, None]), np.arange(200), split)
    assert [f.about for f in found if f.verdict == "fail"] == ["t: lab"]


@pytest.mark.parametrize("nodes_each", [3, 12])
def test_hundreds_of_features_without_meaning_do_not_stop_a_small_cohort(nodes_each):
    """600 features, 12 tasks, 18 held-out subjects of some nodes each, as in the MIMIC-IV demo; 15 times."""
    for seed in range(15):
        rng = np.random.default_rng(seed)
        subjects = np.repeat(np.arange(100), nodes_each)
        split = np.where(subjects < 82, "train", "held_out")
        # Nodes of one subject are alike, in features and in outcomes.
        noise = rng.normal(size=(len(subjects), 600))
        X = (rng.normal(size=(100, 600))[subjects] + 0.1 * noise).astype(np.float32)
        y = ((rng.random((100, 12)) < 0.2)[subjects]).astype(float)
        names = [f"f{j}" for j in range(600)]
        found = single_features("c", X, names, Outcomes([f"t{i}" for i in range(12)], y), subjects, split)
        assert not [f for f in found if f.verdict == "fail"], seed


def test_many_rows_are_cut_to_whole_subjects():
    subjects = np.repeat(np.arange(50), np.random.default_rng(0).integers(1, 9, 50))
    kept = at_most(60, subjects, 0)
    assert 50 < len(kept) <= 60
    assert (np.diff(kept) > 0).all()
    assert not set(subjects[kept]) & set(np.delete(subjects, kept))
    assert at_most(10**6, subjects, 0).tolist() == list(range(len(subjects)))
    assert len(at_most(1, np.array([7, 7, 7]), 0)) == 3  # one subject is never torn


# --- Permuted outcomes


def test_outcomes_are_exchanged_within_their_split_only():
    rng = np.random.default_rng(0)
    y = np.array([1.0, 1, 0, np.nan, 0, 0, 0, 1])
    split = np.array(["train"] * 4 + ["held_out"] * 4)
    for _ in range(20):
        new = permuted_within(y, split, rng)
        assert np.isnan(new[3])
        assert np.nansum(new[:4]) == 2
        assert new[4:].sum() == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=6, max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_deviation_is_that_of_the_rank_sum_test(rows):
    from scipy.stats import mannwhitneyu

    y, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    z = deviation(y, score)
    if len(set(y)) < 2 or len(set(score)) < 2:
        assert z == 0
        return
    p = mannwhitneyu(score[y == 1], score[y == 0], use_continuity=False, method="asymptotic").pvalue
    from statistics import NormalDist

    assert 2 * NormalDist().cdf(-abs(z)) == pytest.approx(p, abs=1e-9)


def test_two_hundred_honest_chains_pass():
    """Scores that depend on subjects, and outcomes that cluster in them: the limits must not mind."""
    refused = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 1])
        subjects = np.repeat(np.arange(60), rng.integers(1, 8, 60))
        split = np.where(subjects < 40, "train", "held_out")
        X = rng.normal(size=(60, 4))[subjects] + 0.2 * rng.normal(size=(len(subjects), 4))
        y = {f"t{i}": (rng.random(60) < 0.4)[subjects].astype(float) for i in range(6)}

        def fit(task, outcome, X=X, split=split):
            weights = np.linalg.lstsq(X[split == "train"], outcome[split == "train"], rcond=None)[0]
            return X @ weights

        found = chance_when_permuted("c", fit, y, split, seed=seed)
        refused += any(f.verdict == "fail" for f in found)
    assert refused <= 2  # 0.2 are expected


def test_a_fit_that_saw_held_out_rows_is_refused_and_its_task_named():
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "held_out"], 300)
    y = {"honest": rng.integers(0, 2, 600).astype(float), "leaking": rng.integers(0, 2, 600).astype(float)}

    def fit(task, outcome):
        noise = rng.normal(size=600)
        return noise + outcome if task == "leaking" else noise

    found = chance_when_permuted("c", fit, y, split)
    assert {f.about for f in found if f.verdict == "fail"} == {None, "leaking"}


def test_without_a_task_to_try_the_guard_still_says_that_it_ran():
    (found,) = chance_when_permuted("c", lambda task, y: None, {"t": np.zeros(4)}, np.full(4, "held_out"))
    assert (found.verdict, found.n) == ("ok", 0)
