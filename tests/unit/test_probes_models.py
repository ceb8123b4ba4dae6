"""The fits by themselves: against scikit-learn and lifelines, on rows they are given and on no others."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.sparse import csr_array
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.leakage.subjects import subjects_hash
from ehr_assets.probes import linear
from ehr_assets.probes.choose import Setting, choose_setting, grouped_folds, score, youden_threshold
from ehr_assets.probes.indications import ByIndication
from ehr_assets.probes.linear import L2_STRENGTHS, RIDGE_STRENGTHS, _logistic_path, fit_logistic, fit_ridge
from ehr_assets.probes.rows import How, NoModelError, Rows, joined, shortage
from ehr_assets.probes.survival import PENALIZER, fit_cox
from ehr_assets.probes.trees import fit_boosted, fit_forest

FITS = {"binary": (fit_logistic, fit_boosted, fit_forest), "regression": (fit_ridge, fit_boosted, fit_forest)}
EVERY_FIT = [(kind, fit) for kind, fits in FITS.items() for fit in fits]


def some_rows(n=240, d=6, kind="binary", seed=0, subjects=60, first=0, X=None):
    """The first column tells the outcome; subjects are numbered from `first`."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) if X is None else X
    signal = np.asarray(X[:, 0]) + rng.normal(0, 0.7, n)
    return Rows(
        X=X.astype(np.float32),
        y=(signal > 0.3).astype(float) if kind == "binary" else signal,
        duration_days=np.exp(-1.5 * np.asarray(X[:, 0])) * rng.exponential(30, n),
        observed=rng.random(n) < 0.8,
        subject_id=first + rng.integers(0, subjects, n),
        indication=rng.choice(["lung", "colon", ""], n),
        cohort="c",
        task="t",
        kind=kind,
        ledger=FitLedger(),
    )


def train_and_tuning(kind="binary", **kwargs):
    train = some_rows(kind=kind, **kwargs)
    tuning = some_rows(80, kind=kind, seed=1, subjects=20, first=1000)
    return train, tuning[np.arange(len(tuning))].__class__(**{**vars(tuning), "ledger": train.ledger})


def steps(rows, role=None):
    found = [e for e in rows.ledger.document() if role in (None, e["role"])]
    return {(e["step"], e["subjects_sha256"]) for e in found}


def plain(setting, model):
    """The columns by scikit-learn, and then the model."""
    whitening = [PCA(whiten=True, svd_solver="full")] if setting.columns == "whitened" else []
    return make_pipeline(StandardScaler(), *whitening, model)


# --- what is chosen


def test_no_subject_is_in_two_folds_and_every_row_is_left_out_once():
    rows = some_rows()
    folds = grouped_folds(rows, 5)
    assert len(folds) == 5
    assert sorted(np.concatenate([left for _, left in folds])) == list(range(len(rows)))
    for fit, left in folds:
        assert not set(rows.subject_id[fit]) & set(rows.subject_id[left])


@pytest.mark.parametrize(("positive_subjects", "expected"), [(0, 0), (1, 0), (3, 3), (30, 5)])
def test_as_many_folds_as_the_rarer_class_has_subjects(positive_subjects, expected):
    rows = some_rows(200, subjects=50)
    y = (rows.subject_id < positive_subjects).astype(float)
    assert len(grouped_folds(Rows(**{**vars(rows), "y": y}), 5)) == expected


def test_the_setting_is_that_of_a_plain_loop_over_the_folds():
    """Scaler, components and model of scikit-learn, fitted fold by fold."""
    rng = np.random.default_rng(3)
    rows = some_rows(300, X=rng.normal(size=(300, 60)) * rng.uniform(0.1, 9, 60) + 4)
    settings = [Setting(c, s) for c in ("standardized", "whitened") for s in L2_STRENGTHS]
    by_setting = []
    for setting in settings:
        found = []
        for fit, left in grouped_folds(rows, 5):
            C = setting.strength * 1000 / len(fit)
            model = plain(setting, LogisticRegression(C=C, max_iter=5000, tol=1e-7))
            model.fit(rows.X[fit].astype(float), rows.y[fit])
            found.append(roc_auc_score(rows.y[left], model.decision_function(rows.X[left].astype(float))))
        by_setting.append(np.mean(found))
    choice = choose_setting(rows, settings, settings[0], How(), _logistic_path)
    assert choice.folds == 5
    assert choice.score == pytest.approx(by_setting[settings.index(choice.setting)], abs=2e-3)
    assert choice.score >= max(by_setting) - 4e-3
    assert max(by_setting) - min(by_setting) > 0.01  # there was something to choose


def test_other_columns_must_be_better_than_by_chance():
    """Answers made here: the whitened ones are better on average, by one fold of five or in all of them."""
    rows = some_rows(300)
    settings = [Setting("standardized", 1.0), Setting("whitened", 1.0)]
    truth = np.where(rows.y == 1, 1.0, -1.0)
    margin = truth + np.random.default_rng(0).normal(0, 2, 300)

    def path(better):
        more = iter(better)

        def answers(X, y, X_test, settings):
            at = [np.flatnonzero((row == rows.X).all(axis=1))[0] for row in X_test]
            return np.stack([margin[at], margin[at] + next(more) * truth[at]])

        return answers

    lucky, sure = path([3, -0.5, -0.5, -0.5, -0.5]), path([1] * 5)
    assert choose_setting(rows, settings, settings[0], How(), lucky).setting == settings[0]
    assert choose_setting(rows, settings, settings[0], How(), sure).setting == settings[1]


@pytest.mark.parametrize(("kind", "theirs"), [("binary", roc_auc_score), ("regression", r2_score)])
def test_scores_are_scikit_learns(kind, theirs):
    rows = some_rows(kind=kind)
    answers = np.round(rows.X.T, 1)  # with ties
    expected = [theirs(rows.y, a) for a in answers]
    np.testing.assert_allclose(score(rows.y, answers, binary=kind == "binary"), expected, rtol=1e-6)
    assert np.isnan(score(np.ones(3), answers[:, :3], binary=kind == "binary")).all()


def test_without_folds_the_middle_of_the_grid_is_taken_and_said():
    train, tuning = train_and_tuning()
    one = (train.subject_id == train.subject_id[train.y == 1][0]) & (train.y == 1)
    train = train[one | (train.y == 0)]
    model = fit_logistic(train, tuning[tuning.y == 0], How())
    assert model.chosen["chosen_by"] == "default"
    assert model.chosen["strength"] == L2_STRENGTHS[len(L2_STRENGTHS) // 2]


def test_youden_threshold():
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.4, 0.9])
    assert youden_threshold(y, p) == pytest.approx(0.4)
    assert youden_threshold(np.ones(3), np.array([0.2, 0.3, 0.4])) == 0.5
    assert youden_threshold(np.zeros(0), np.zeros(0)) == 0.5


# --- what is fitted


@pytest.mark.parametrize("columns", ["standardized", "whitened"])
def test_logistic_is_scikit_learns_on_train_rows(monkeypatch, columns):
    monkeypatch.setattr(linear, "COLUMNS", (columns,))
    train, tuning = train_and_tuning()
    model = fit_logistic(train, tuning, How())
    C = model.choice.setting.strength * 1000 / len(train)
    expected = plain(model.choice.setting, LogisticRegression(C=C, max_iter=5000, tol=1e-8))
    expected.fit(train.X.astype(float), train.y)
    said = expected.predict_proba(tuning.X.astype(float))[:, 1]
    np.testing.assert_allclose(model.predict(tuning), said, atol=2e-4)


@pytest.mark.parametrize("columns", ["standardized", "whitened"])
def test_ridge_is_scikit_learns_on_train_rows(monkeypatch, columns):
    monkeypatch.setattr(linear, "COLUMNS", (columns,))
    train, tuning = train_and_tuning("regression")
    model = fit_ridge(train, tuning, How())
    expected = plain(model.choice.setting, Ridge(alpha=model.choice.setting.strength * len(train)))
    expected.fit(train.X.astype(float), train.y)
    np.testing.assert_allclose(model.predict(tuning), expected.predict(tuning.X.astype(float)), atol=5e-4)
    assert model.choice.setting.strength in RIDGE_STRENGTHS


@pytest.mark.parametrize(("kind", "fit"), [("binary", fit_logistic), ("regression", fit_ridge)])
def test_what_lies_in_a_direction_of_little_variance_is_read(kind, fit):
    """States of a trained encoder: one direction holds nearly all variance, and tells nothing."""
    rng = np.random.default_rng(8)
    told = rng.normal(size=(900, 1))
    common = rng.normal(size=(900, 1)) @ rng.normal(size=(1, 24))
    X = common + 1e-3 * (told @ rng.normal(size=(1, 24)) + rng.normal(0, 0.3, (900, 24)))
    y = (told[:, 0] + rng.normal(0, 0.5, 900) > 0).astype(float) if kind == "binary" else told[:, 0]
    rows = Rows(**{**vars(some_rows(900, X=X, subjects=300)), "y": y, "kind": kind})
    train, tuning, new = rows[np.arange(500)], rows[np.arange(500, 600)], rows[np.arange(600, 900)]
    model = fit(train, tuning, How())
    assert model.chosen["columns"] == "whitened"
    assert score(new.y, model.predict(new), binary=kind == "binary") > 0.85
    assert ("pca", subjects_hash(train.subject_id)) in steps(rows)


@pytest.mark.parametrize("d", [12, 90])  # more columns than rows: by the other Gram matrix
def test_cox_is_lifelines_on_whitened_components(d):
    train = some_rows(70, d=d, seed=4)
    train = Rows(**{**vars(train), "kind": "time_to_event"})
    model = fit_cox(train, train[:0], How())
    Z = StandardScaler().fit_transform(train.X.astype(float))
    k = model.chosen["components"]
    assert k == train.observed.sum() // 10
    scores = PCA(k, svd_solver="full").fit_transform(Z)
    frame = pd.DataFrame(scores / scores.std(axis=0))
    frame["t"], frame["e"] = train.duration_days, train.observed
    expected = CoxPHFitter(penalizer=PENALIZER).fit(frame, "t", "e")
    risk = frame.iloc[:, :k].to_numpy() @ expected.params_.to_numpy()
    np.testing.assert_allclose(model.predict(train), risk, atol=1e-3)


def test_cox_ranks_and_refuses_flat_features():
    train = some_rows(200, seed=2)
    model = fit_cox(train, train[:0], How())
    assert np.corrcoef(model.predict(train), train.X[:, 0])[0, 1] > 0.9
    with pytest.raises(NoModelError, match="constant_features"):
        fit_cox(some_rows(X=np.ones((240, 6))), train[:0], How())


@pytest.mark.parametrize(("kind", "fit"), EVERY_FIT)
def test_every_fit_finds_the_signal_repeatably(kind, fit):
    train, tuning = train_and_tuning(kind)
    new = some_rows(400, kind=kind, seed=9)
    answers = [fit(train, tuning, How(seed=3)).predict(new) for _ in range(2)]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert answers[0].dtype == np.float32
    found = roc_auc_score(new.y, answers[0]) if kind == "binary" else np.corrcoef(new.y, answers[0])[0, 1]
    assert found > 0.7


@pytest.mark.parametrize(("kind", "fit"), [*EVERY_FIT, ("time_to_event", fit_cox)])
def test_fits_tell_the_ledger_train_and_choices_tuning_or_development(kind, fit):
    train, tuning = train_and_tuning(kind)
    fit(train, tuning, How())
    sets = {
        "train": subjects_hash(train.subject_id.tolist()),
        "tuning": subjects_hash(tuning.subject_id.tolist()),
        "development": subjects_hash(joined(train, tuning).subject_id.tolist()),
    }
    fitted, chosen = steps(train, "fitted"), steps(train, "chosen")
    assert {sha for _, sha in fitted} == {sets["train"]}
    assert {sha for _, sha in chosen} <= {sets["tuning"], sets["development"]}
    assert chosen or fit is fit_cox


@pytest.mark.parametrize(("kind", "fit"), EVERY_FIT)
def test_tuning_outcomes_only_choose(kind, fit):
    """Whatever the tuning rows say, the model is the one that its chosen settings give on train alone."""
    train, tuning = train_and_tuning(kind)
    new, found = some_rows(60, kind=kind, seed=8), {}
    for seed in range(4):
        y = np.random.default_rng(seed).permutation(tuning.y)
        model = fit(train, Rows(**{**vars(tuning), "y": y}), How())
        settings = str({k: v for k, v in sorted(model.chosen.items()) if k != "folds"})
        answers = found.setdefault(settings, model.predict(new))
        np.testing.assert_array_equal(answers, model.predict(new))


# --- bad input


@pytest.mark.parametrize(("kind", "fit"), EVERY_FIT)
@pytest.mark.parametrize("what", ["none", "one row", "one class"])
def test_tuning_may_be_empty_or_say_nothing(kind, fit, what):
    train, tuning = train_and_tuning(kind)
    few = {"none": tuning[:0], "one row": tuning[:1], "one class": tuning[tuning.y == tuning.y[0]]}[what]
    assert np.isfinite(fit(train, few, How()).predict(tuning)).all()


@pytest.mark.parametrize(("kind", "fit"), EVERY_FIT)
@pytest.mark.parametrize("noise", [0, 1e-7])  # of a collapsed encoder: float32's last digits differ
def test_constant_features_give_no_model(kind, fit, noise):
    X = 0.7 + noise * np.random.default_rng(0).normal(size=(240, 6))
    train, tuning = train_and_tuning(kind, X=X)
    with pytest.raises(NoModelError, match="constant_features"):
        fit(train, tuning, How())


@pytest.mark.parametrize(("kind", "fit"), EVERY_FIT)
def test_constant_and_missing_columns_do_no_harm(kind, fit):
    X = np.random.default_rng(5).normal(size=(240, 6))
    X[:, 1], X[5:, 2], X[:, 3], X[::3, 4] = 7.0, np.nan, np.nan, np.nan
    train, tuning = train_and_tuning(kind, X=X)
    assert np.isfinite(fit(train, tuning, How()).predict(train)).all()


def test_a_number_that_never_differs_gives_no_ridge():
    train, tuning = train_and_tuning("regression")
    with pytest.raises(NoModelError, match="constant_outcome"):
        fit_ridge(Rows(**{**vars(train), "y": np.full(len(train), 3.0)}), tuning, How())


def test_shortage_names_what_is_missing():
    rows = some_rows(30)
    assert shortage(rows, 20, 5) is None
    assert shortage(rows[:19], 20, 5) == "too_few_samples"
    assert shortage(rows[np.r_[np.flatnonzero(rows.y == 0), 0]], 5, 5) == "too_few_of_a_class"
    timed = Rows(**{**vars(rows), "kind": "time_to_event", "observed": np.zeros(30, dtype=bool)})
    assert shortage(timed, 20, 5) == "too_few_events"
    assert shortage(Rows(**{**vars(rows), "kind": "regression", "y": np.ones(30)}), 20, 5) is None


# --- sparse, and per indication


def test_sparse_columns_give_the_model_of_dense_ones(monkeypatch):
    monkeypatch.setattr(linear, "COLUMNS", ("standardized",))
    monkeypatch.setattr(linear, "L2_STRENGTHS", (1e-2,))
    monkeypatch.setattr(linear, "RIDGE_STRENGTHS", (0.1,))
    rng = np.random.default_rng(6)
    X = np.where(rng.random((240, 30)) < 0.3, rng.poisson(3, (240, 30)), 0).astype(float)
    for kind, fit in (("binary", fit_logistic), ("regression", fit_ridge)):
        train, tuning = train_and_tuning(kind, X=X)
        tuning = Rows(**{**vars(tuning), "X": X[:80].astype(np.float32)})
        dense = fit(train, tuning, How())
        sparse_train = Rows(**{**vars(train), "X": csr_array(train.X)})
        sparse_tuning = Rows(**{**vars(tuning), "X": csr_array(tuning.X)})
        sparse = fit(sparse_train, sparse_tuning, How())
        np.testing.assert_allclose(sparse.predict(sparse_tuning), dense.predict(tuning), atol=2e-3)


def test_fits_by_indication_answer_their_own_nodes_and_leave_the_rest_to_the_fit_of_all():
    train, tuning = train_and_tuning()
    flipped = np.where((train.indication == "colon") & (train.X[:, 0] != 0), 1 - train.y, train.y)
    rare = np.where(np.arange(len(train)) < 5, "rare", train.indication)
    train = Rows(**{**vars(train), "y": flipped, "indication": rare})
    pooled = fit_logistic(train, tuning, How())
    model = ByIndication(fit_logistic, 20, 5)(train, tuning, How())
    assert set(model.models) == {"lung", "colon"}
    new = some_rows(600, seed=7)
    new = Rows(**{**vars(new), "indication": np.where(new.indication == "", "rare", new.indication)})
    answers = model.predict(new)
    np.testing.assert_array_equal(
        answers[new.indication == "rare"], pooled.predict(new)[new.indication == "rare"]
    )
    colon = new.indication == "colon"
    assert roc_auc_score(new.y[colon], answers[colon]) < 0.3  # where the outcome is turned round
    assert roc_auc_score(new.y[new.indication == "lung"], answers[new.indication == "lung"]) > 0.8
    assert {e["indication"] for e in train.ledger.document()} == {None, "lung", "colon"}


def test_no_indication_with_rows_enough_gives_no_model():
    train, tuning = train_and_tuning()
    with pytest.raises(NoModelError, match="too_few_in_every_indication"):
        ByIndication(fit_logistic, 1000, 5)(train, tuning, How())
