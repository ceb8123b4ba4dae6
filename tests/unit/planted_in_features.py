"""Leaks planted in features, and in fits and what they say of themselves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from planted_support import (
    KNOWN,
    TASK,
    Chain,
    T,
    honest_entries,
    leak,
    usable_subjects,
    write_fits,
)

from ehr_assets.leakage import guarded
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.lineage.manifest import InputEntry
from ehr_assets.meds.reading import scan_events
from ehr_assets.nodes.frames import read_nodes


def with_column(name: str, column: Callable[[Any, pl.DataFrame], np.ndarray]) -> Callable[..., Any]:
    """The baselines' features and one more: (nodes, events) → (n,)."""

    def features(nodes):
        honest = guarded.features_at(nodes)

        def of(meds):
            X, names = honest(meds)
            more = np.asarray(column(nodes, scan_events(meds).collect()), dtype=np.float32)
            return np.column_stack([X, more]), [*names, name]

        return of

    return features


def per_node(nodes, events: pl.DataFrame, keep: pl.Expr, value: pl.Expr) -> np.ndarray:
    """An aggregate over those of the subject's events for which `keep` holds; `at` is the node's time."""
    pairs = nodes.frame.select("node_id", "subject_id", pl.col("time").alias("at")).join(
        events, on="subject_id"
    )
    found = pairs.filter(keep).group_by("node_id").agg(value.alias("value"))
    joined = nodes.frame.select("node_id").join(found, on="node_id", how="left", maintain_order="left")
    return joined["value"].cast(pl.Float64).fill_null(-1).to_numpy()


AT = pl.col("at")
LAB = pl.col("code").str.starts_with("LOINC/")


@leak("features_without_future")
def results_before_they_were_reported(chain):
    count = lambda n, e: per_node(n, e, (T <= AT) & LAB, pl.len())  # noqa: E731
    return chain.with_(features=with_column("labs", count))


@leak("features_without_future")
def length_of_the_whole_record(chain):
    count = lambda n, e: per_node(n, e, pl.lit(True), T.max() - T.min())  # noqa: E731
    return chain.with_(features=with_column("days in care", lambda n, e: count(n, e) / 86_400e6))


@leak("features_without_future")
def values_scaled_by_the_subjects_whole_record(chain):
    value = pl.col("numeric_value").fill_nan(None)
    own = pl.when(KNOWN <= AT).then(value).drop_nulls().last() - value.mean()
    return chain.with_(features=with_column("own z", lambda n, e: per_node(n, e, LAB, own)))


@leak("features_without_future")
def gaps_filled_with_the_next_value(chain):
    next_value = pl.col("numeric_value").filter(AT - pl.duration(days=2) <= T).first()
    return chain.with_(features=with_column("filled", lambda n, e: per_node(n, e, LAB, next_value)))


@leak("features_without_future")
def vocabulary_of_what_comes_later(chain):
    def features(nodes):
        def of(meds):
            codes = scan_events(meds).select(pl.col("code").unique().sort()).collect()["code"].to_list()
            return np.zeros((nodes.frame.height, len(codes)), np.float32), codes

        return of

    return chain.with_(features=features)


@leak("planted_future_changes_nothing")
def number_of_distinct_codes_ever(chain):
    ever = lambda n, e: per_node(n, e, pl.lit(True), pl.col("code").n_unique())  # noqa: E731
    return chain.with_(features=with_column("codes ever", ever))


@leak("planted_future_changes_nothing")
def highest_value_up_to_a_minute_after(chain):
    soon = AT + pl.duration(minutes=1)
    return chain.with_(
        features=with_column(
            "highest", lambda n, e: per_node(n, e, soon >= KNOWN, pl.col("numeric_value").max())
        )
    )


@leak("no_single_feature_tells")
def label_among_the_features(chain):
    return chain.with_(features=with_column("label", lambda n, _: np.nan_to_num(n.tasks[0].y, nan=-1)))


@leak("no_single_feature_tells")
def days_until_the_outcome_among_the_features(chain):
    return chain.with_(
        features=with_column(
            "days", lambda n, _: np.where(n.tasks[0].observed, n.tasks[0].duration_days, 1e4)
        )
    )


@leak("permuted_labels_at_chance")
def fit_on_held_out_rows_too(chain):
    def fit(X, nodes):
        everybody = type(nodes)(nodes.cohort, nodes.frame, np.full(len(nodes.split), "train"), nodes.tasks)
        return guarded.logistic_on(X, everybody)

    return chain.with_(fit=fit)


@leak("permuted_labels_at_chance")
def outcome_rates_of_subjects_as_a_feature(chain):
    """Target encoding over all rows, held-out ones included."""

    def fit(X, nodes):
        def encoded(task, y):
            rate = pl.DataFrame({"s": nodes.subject_id, "y": y}).select(
                pl.col("y").fill_nan(None).mean().over("s")
            )
            column = rate["y"].fill_null(0.5).to_numpy()[:, None]
            return guarded.logistic_on(np.column_stack([X, column]).astype(np.float32), nodes)(task, y)

        return encoded

    return chain.with_(fit=fit)


def one_other(chain: Chain, step: str, subjects: list[int], role: str, task: str | None = TASK) -> Chain:
    """The honest ledger, with one entry more."""
    return chain.fitted(*honest_entries(chain), (step, task, subjects, role))


@leak("fits_proved")
def scaler_fitted_on_everybody(chain):
    return one_other(chain, "scaler", usable_subjects(chain, TASK, "train", "tuning", "held_out"), "fitted")


@leak("fits_proved")
def components_fitted_on_everybody(chain):
    return one_other(chain, "pca", usable_subjects(chain, TASK, "train", "held_out"), "fitted")


@leak("fits_proved")
def features_selected_on_everybody(chain):
    return one_other(chain, "vocabulary", read_nodes(chain.nodes)["subject_id"].to_list(), "fitted", None)


@leak("fits_proved")
def penalty_chosen_on_held_out(chain):
    return one_other(chain, "folds", usable_subjects(chain, TASK, "train", "held_out"), "chosen")


@leak("fits_proved")
def threshold_chosen_on_held_out(chain):
    return one_other(chain, "threshold", usable_subjects(chain, TASK, "held_out"), "chosen")


@leak("fits_proved")
def rounds_stopped_early_on_held_out(chain):
    return one_other(chain, "boosted", usable_subjects(chain, TASK, "tuning", "held_out"), "chosen")


@leak("fits_proved")
def one_held_out_subject_among_the_train_rows(chain):
    train, held_out = (usable_subjects(chain, TASK, split) for split in ("train", "held_out"))
    return one_other(chain, "logistic", [*train[1:], held_out[0]], "fitted")


@leak("fits_proved")
def fit_that_keeps_no_ledger(chain):
    return chain.with_(fits=chain.folder("fits"))


@leak("fits_proved")
def fit_of_a_cohort_that_nobody_declared(chain):
    ledger = FitLedger()
    ledger.saw("logistic", "elsewhere", TASK, [1, 2, 3])
    return chain.with_(fits=write_fits(chain.folder("fits"), ledger))


@leak("common_ancestry")
def embeddings_of_another_deal_of_subjects(chain):
    (name,) = chain.ancestors
    other = InputEntry(asset=name, data_version="v2", dataset="d2")
    return chain.with_(ancestors={name: {**chain.ancestors[name], "v2": other}})
