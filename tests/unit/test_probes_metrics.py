"""Metrics against sklearn, lifelines and a plain resampling loop."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ehr_assets.probes import metrics as m


def _data(seed, n=150, subjects=40, ties=True):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.35).astype(float)
    score = y * 0.4 + rng.normal(size=n)
    if ties:
        score = np.round(score)
    return y, score, rng.integers(0, subjects, n)


@pytest.mark.parametrize("seed", range(4))
def test_point_estimates_equal_sklearn(seed):
    y, score, _ = _data(seed)
    probability = 1 / (1 + np.exp(-score))
    ones = np.ones((1, len(y)))
    assert m.weighted_auroc(y, score, ones)[0] == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    assert m.weighted_auprc(y, score, ones)[0] == pytest.approx(average_precision_score(y, score), abs=1e-12)
    assert m.weighted_brier(y, probability, ones)[0] == pytest.approx(
        brier_score_loss(y, probability), abs=1e-12
    )


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=25))
@settings(max_examples=150, deadline=None)
def test_weighted_auroc_is_the_share_of_pairs_won(rows):
    y, score, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    wins = pairs = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            pairs += weight[i] * weight[j]
            wins += weight[i] * weight[j] * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    found = m.weighted_auroc(y, score, weight[None, :])[0]
    assert np.isnan(found) if pairs == 0 else found == pytest.approx(wins / pairs, abs=1e-12)


@pytest.mark.parametrize("ties", [True, False])
def test_bootstrap_equals_a_plain_resampling_loop(ties):
    y, score, subject = _data(3, ties=ties)
    weights = m.subject_weights(40, 60, seed=9)
    fast = m.with_interval(partial(m.weighted_auroc, y, score), subject, weights)
    drawn = []
    for resample in weights:
        rows = np.concatenate(
            [np.tile(np.flatnonzero(subject == s), times) for s, times in enumerate(resample)]
        ).astype(int)
        drawn.append(roc_auc_score(y[rows], score[rows]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (fast.ci_low, fast.ci_high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert fast.ci_low < fast.value < fast.ci_high


def test_blocks_do_not_change_the_result(monkeypatch):
    y, score, subject = _data(5)
    weights = m.subject_weights(40, 33)[:, subject]
    whole = [f(y, score, weights) for f in (m.weighted_auroc, m.weighted_auprc)]
    monkeypatch.setattr(m, "_CHUNK_CELLS", 400)
    for before, f in zip(whole, (m.weighted_auroc, m.weighted_auprc), strict=True):
        np.testing.assert_array_equal(before, f(y, score, weights))


@pytest.mark.parametrize("y", [np.zeros(6), np.ones(6), np.zeros(0)])
def test_one_class_is_never_a_number(y):
    score, ones = np.arange(len(y), dtype=float), np.ones((1, len(y)))
    subject, weights = np.arange(len(y)), m.subject_weights(len(y), 10)
    for metric in (m.weighted_auroc, m.weighted_auprc):
        if len(y):
            assert np.isnan(metric(y, score, ones)).all()
        estimate = m.with_interval(partial(metric, y, score), subject, weights)
        assert np.isnan([estimate.value, estimate.ci_low, estimate.ci_high]).all()


def test_no_interval_when_most_resamples_hold_one_class():
    y, score = np.array([1.0, 0, 0, 0, 0, 0]), np.arange(6.0)
    weights = np.zeros((10, 6), dtype=int)
    weights[:, 1] = 6  # the positive subject is never drawn
    weights[0] = 1
    estimate = m.with_interval(partial(m.weighted_auroc, y, score), np.arange(6), weights)
    assert estimate.value == 0.0
    assert np.isnan(estimate.ci_low)
    assert np.isnan(estimate.ci_high)


def test_weights_are_whole_resamples_and_repeatable():
    weights = m.subject_weights(17, 25)
    assert (weights.sum(axis=1) == 17).all()
    np.testing.assert_array_equal(weights, m.subject_weights(17, 25))
    assert not np.array_equal(weights, m.subject_weights(17, 25, seed=1))


@pytest.mark.parametrize("seed", range(3))
def test_c_index_equals_lifelines(seed, monkeypatch):
    from lifelines.utils import concordance_index

    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 30, 80).astype(float)  # many ties
    observed, risk = rng.random(80) < 0.6, np.round(-duration / 10 + rng.normal(size=80), 1)
    expected = concordance_index(duration, -risk, observed)
    assert m.weighted_c_index(duration, observed, risk, np.ones((1, 80)))[0] == pytest.approx(
        expected, abs=1e-12
    )
    weights = m.subject_weights(80, 5)
    drawn = m.weighted_c_index(duration, observed, risk, weights)
    for w, found in zip(weights, drawn, strict=True):
        rows = np.repeat(np.arange(80), w)
        assert found == pytest.approx(
            concordance_index(duration[rows], -risk[rows], observed[rows]), abs=1e-12
        )
    monkeypatch.setattr(m, "_CHUNK_CELLS", 300)
    np.testing.assert_allclose(m.weighted_c_index(duration, observed, risk, weights), drawn, rtol=1e-12)
