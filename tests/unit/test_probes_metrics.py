"""Metrics against sklearn, scipy, lifelines, literal double loops and a plain resampling loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from ehr_assets.probes.metrics import binary, calibration, kernels, regression, survival
from ehr_assets.probes.metrics.kernels import by_blocks, evaluate
from ehr_assets.probes.resample import draws_of, interval, subject_weights, with_interval


def _data(seed, n=150, subjects=40, ties=True):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.35).astype(float)
    score = y * 0.4 + rng.normal(size=n)
    if ties:
        score = np.round(score)
    return y, score, rng.integers(0, subjects, n)


def _copies(subject, resample):
    """The rows of a resample, written out."""
    return np.concatenate(
        [np.tile(np.flatnonzero(subject == s), times) for s, times in enumerate(resample)]
    ).astype(int)


def _one(kernel, n):
    return evaluate(kernel, np.ones((1, n)))[0]


def _ece(y, p, bin_of):
    return sum(abs(y[bin_of == b].sum() - p[bin_of == b].sum()) for b in set(bin_of)) / len(y)


@pytest.mark.parametrize("seed", range(4))
def test_point_estimates_equal_sklearn(seed):
    y, score, _ = _data(seed)
    probability, n = 1 / (1 + np.exp(-score)), len(y)
    assert _one(binary.auroc(y, score), n) == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    assert _one(binary.auprc(y, score), n) == pytest.approx(average_precision_score(y, score), abs=1e-12)
    assert _one(binary.brier(y, probability), n) == pytest.approx(brier_score_loss(y, probability), abs=1e-12)
    value = score * 3 + y
    assert _one(regression.r2(value, score), n) == pytest.approx(r2_score(value, score), abs=1e-12)
    assert _one(regression.mean_absolute_error(value, score), n) == pytest.approx(
        mean_absolute_error(value, score), abs=1e-12
    )
    assert _one(regression.spearman(value, score), n) == pytest.approx(spearmanr(value, score)[0], abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=25))
@settings(max_examples=150, deadline=None)
def test_weighted_auroc_is_the_share_of_pairs_won(rows):
    y, score, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    wins = pairs = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            pairs += weight[i] * weight[j]
            wins += weight[i] * weight[j] * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    found = binary.weighted_auroc(y, score, weight[None, :])[0]
    assert np.isnan(found) if pairs == 0 else found == pytest.approx(wins / pairs, abs=1e-12)


@pytest.mark.parametrize("ties", [True, False])
def test_bootstrap_equals_a_plain_resampling_loop(ties):
    y, score, subject = _data(3, ties=ties)
    p, value = 1 / (1 + np.exp(-score)), score * 2 + y
    bin_of = calibration.equal_mass_bins(p)
    plain = {
        "auroc": (binary.auroc(y, score), lambda r: roc_auc_score(y[r], score[r])),
        "auprc": (binary.auprc(y, score), lambda r: average_precision_score(y[r], score[r])),
        "brier": (binary.brier(y, p), lambda r: brier_score_loss(y[r], p[r])),
        "ece": (calibration.ece(y, p), lambda r: _ece(y[r], p[r], bin_of[r])),
        "sensitivity": (binary.sensitivity(y, p, 0.6), lambda r: (p[r] >= 0.6)[y[r] == 1].mean()),
        "specificity": (binary.specificity(y, p, 0.6), lambda r: (p[r] < 0.6)[y[r] == 0].mean()),
        "r2": (regression.r2(value, score), lambda r: r2_score(value[r], score[r])),
        "mae": (regression.mean_absolute_error(value, score), lambda r: np.abs(value[r] - score[r]).mean()),
        "spearman": (regression.spearman(value, score), lambda r: spearmanr(value[r], score[r])[0]),
    }
    weights = subject_weights(40, 60, seed=9)
    draws = draws_of([kernel for kernel, _ in plain.values()], subject, weights)
    for (_, reference), mine in zip(plain.values(), draws, strict=True):
        expected = [reference(np.arange(len(y))), *(reference(_copies(subject, w)) for w in weights)]
        np.testing.assert_allclose(mine, expected, atol=1e-12)
        found = interval(mine, 40)
        assert (found.ci_low, found.ci_high) == pytest.approx(
            tuple(np.percentile(expected[1:], [2.5, 97.5])), abs=1e-12
        )


def test_blocks_do_not_change_the_result(monkeypatch):
    y, score, subject = _data(5)
    weights = np.ascontiguousarray(subject_weights(40, 33)[:, subject].T, dtype=float)
    time = np.abs(score) + 1
    made = [binary.auroc(y, score), binary.auprc(y, score), survival.c_index(time, y == 1, score)]
    whole = [by_blocks(kernel, weights) for kernel in made]
    monkeypatch.setattr(kernels, "BLOCK", 7)
    for before, kernel in zip(whole, made, strict=True):
        np.testing.assert_array_equal(before, by_blocks(kernel, weights))


@pytest.mark.parametrize("y", [np.zeros(6), np.ones(6), np.zeros(0)])
def test_one_class_is_never_a_number(y):
    score = np.arange(len(y), dtype=float)
    subject, weights = np.arange(len(y)), subject_weights(len(y), 10)
    for metric in (binary.auroc, binary.auprc):
        assert np.isnan(draws_of([metric(y, score)], subject, weights)).all()
        estimate = with_interval(metric(y, score), subject, weights)
        assert np.isnan([estimate.value, estimate.ci_low, estimate.ci_high]).all()


def test_nothing_is_estimated_of_nothing():
    none, weights = np.zeros(0), subject_weights(0, 5)
    made = [
        *(f(none, none) for f in (binary.brier, calibration.ece, regression.r2, regression.spearman)),
        binary.sensitivity(none, none, 0.5),
        survival.c_index(none, none == 1, none),
        survival.time_dependent_auroc(none, none, none, 9.0, survival.CensoringCurve.fitted(none, none == 1)),
    ]
    assert np.isnan(draws_of(made, none.astype(int), weights)).all()
    assert calibration.reliability(none, none) == []
    assert np.isnan(binary.threshold_at_specificity(none, none, 0.9))


def test_constant_values_have_no_r2_and_no_rank_correlation():
    same, moving, ones = np.full(9, 0.1), np.arange(9.0), np.ones((1, 9))
    assert np.isnan(evaluate(regression.r2(same, moving), ones)[0])
    assert evaluate(regression.r2(moving, same), ones)[0] < 0
    for pair in ((same, moving), (moving, same)):
        assert np.isnan(evaluate(regression.spearman(*pair), ones)[0])


def test_no_interval_when_most_resamples_hold_one_class():
    y, score = np.array([1.0] + 11 * [0.0]), np.arange(12.0)
    weights = np.zeros((10, 12), dtype=int)
    weights[:, 1] = 12  # the positive subject is never drawn
    weights[0] = 1
    estimate = with_interval(binary.auroc(y, score), np.arange(12), weights)
    assert estimate.value == 0.0
    assert np.isnan([estimate.ci_low, estimate.ci_high]).all()


def test_no_interval_of_very_few_subjects():
    y, score, _ = _data(2, n=60)
    for subjects, estimable in ((9, False), (10, True)):
        found = with_interval(binary.auroc(y, score), np.arange(60) % subjects, subject_weights(subjects, 50))
        assert np.isfinite(found.value)
        assert np.isfinite([found.ci_low, found.ci_high]).all() == estimable


def test_weights_are_whole_resamples_and_repeatable():
    weights = subject_weights(17, 25)
    assert (weights.sum(axis=1) == 17).all()
    np.testing.assert_array_equal(weights, subject_weights(17, 25))
    assert not np.array_equal(weights, subject_weights(17, 25, seed=1))


@pytest.mark.parametrize("wanted", [0.0, 0.5, 0.9, 1.0])
def test_the_threshold_is_the_lowest_that_keeps_the_specificity(wanted):
    y, score, _ = _data(7)
    found = binary.threshold_at_specificity(y, score, wanted)
    kept = {c: (score[y == 0] < c).mean() for c in np.unique(score)}
    assert found == min([c for c, share in kept.items() if share >= wanted], default=np.inf)
    assert binary.threshold_at_specificity(y, np.full(len(y), 0.3), 0.9) == np.inf


def test_bins_have_equal_mass_and_equal_scores_share_one():
    p = np.random.default_rng(0).permutation(np.linspace(0, 1, 100))
    bin_of = calibration.equal_mass_bins(p)
    assert np.bincount(bin_of).tolist() == [10] * 10
    assert all(p[bin_of == b].max() < p[bin_of == b + 1].min() for b in range(9))
    tied = calibration.equal_mass_bins(np.round(p))
    assert len(set(tied[p < 0.5])) == 1
    curve = calibration.reliability((p > 0.5) * 1, p)
    assert [b.observed for b in curve] == [0] * 5 + [1] * 5
    assert [b.predicted for b in curve] == pytest.approx([p[bin_of == b].mean() for b in range(10)])
    assert sum(b.n for b in curve) == 100


@pytest.mark.parametrize("seed", range(3))
def test_c_index_equals_lifelines(seed):
    from lifelines.utils import concordance_index

    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 30, 80).astype(float)  # many ties
    observed, risk = rng.random(80) < 0.6, np.round(-duration / 10 + rng.normal(size=80), 1)
    weights = subject_weights(80, 5)
    drawn = evaluate(survival.c_index(duration, observed, risk), weights)
    for w, found in zip([*weights, np.ones(80, int)], [*drawn, None], strict=True):
        rows = np.repeat(np.arange(80), w)
        if found is None:
            found = _one(survival.c_index(duration, observed, risk), 80)
        assert found == pytest.approx(
            concordance_index(duration[rows], -risk[rows], observed[rows]), abs=1e-12
        )


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    )
)
@settings(max_examples=150, deadline=None)
def test_c_index_is_the_share_of_pairs_in_order(rows):
    time, event, risk, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    wins = pairs = 0.0
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if time[j] > time[i] or (time[j] == time[i] and not event[j]):
                pairs += weight[i] * weight[j]
                wins += weight[i] * weight[j] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    found = evaluate(survival.c_index(time, event == 1, risk), weight[None, :])[0]
    assert np.isnan(found) if pairs == 0 else found == pytest.approx(wins / pairs, abs=1e-12)


def test_the_censoring_curve_equals_lifelines():
    from lifelines import KaplanMeierFitter

    rng = np.random.default_rng(4)
    duration, censored = rng.integers(1, 40, 200).astype(float), rng.random(200) < 0.4
    curve = survival.CensoringCurve.fitted(duration, censored)
    fitter = KaplanMeierFitter().fit(duration, censored)
    at = np.arange(0.5, 45)
    assert curve.before(at) == pytest.approx(fitter.survival_function_at_times(at).to_numpy(), abs=1e-12)
    just_before = np.arange(1.0, 41)
    expected = fitter.survival_function_at_times(just_before - 0.5).to_numpy()
    assert curve.before(just_before) == pytest.approx(expected, abs=1e-12)


def test_time_dependent_auroc_is_the_weighted_share_of_pairs_won():
    rng = np.random.default_rng(8)
    n, horizon = 120, 180.0
    status = rng.choice([0, 1, 2], n, p=[0.4, 0.4, 0.2])
    duration = np.where(rng.random(n) < 0.3, horizon, rng.integers(1, 200, n)).astype(float)
    risk = np.round(status - duration / 90 + rng.normal(size=n), 1)
    curve = survival.CensoringCurve.fitted(rng.integers(1, 200, 300).astype(float), rng.random(300) < 0.5)
    weights = subject_weights(n, 4)
    found = evaluate(survival.time_dependent_auroc(duration, status, risk, horizon, curve), weights)
    for w, value in zip(weights, found, strict=True):
        wins = pairs = 0.0
        for i in range(n):
            if status[i] != 1 or duration[i] > horizon:
                continue
            share = curve.before(duration[i : i + 1])[0]
            for j in range(n):
                alive = duration[j] > horizon or (duration[j] == horizon and status[j] == 0)
                pairs += alive * w[i] * w[j] / share
                wins += alive * w[i] * w[j] / share * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
        assert value == pytest.approx(wins / pairs, abs=1e-12)


def test_without_censoring_time_dependent_auroc_is_the_auroc_at_the_horizon():
    rng = np.random.default_rng(9)
    duration, risk = rng.uniform(1, 400, 200), rng.normal(size=200)
    status = (duration < 365).astype(int)
    curve = survival.CensoringCurve.fitted(duration, np.zeros(200, bool))
    found = _one(survival.time_dependent_auroc(np.minimum(duration, 365), status, risk, 365, curve), 200)
    assert found == pytest.approx(roc_auc_score(status, risk), abs=1e-12)
