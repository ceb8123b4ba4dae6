"""Leaks planted in labels, and in when records were known."""

from typing import Any

import polars as pl
from nodes_support import at, event, write_meds
from planted_support import (
    KNOWN,
    TASK,
    Chain,
    T,
    leak,
)

from ehr_assets.contracts import DEATH
from ehr_assets.leakage.availability_spec import AvailabilityRule


def relabelled(chain: Chain, where: pl.Expr, **columns: Any) -> Chain:
    """The first label for which `where` holds, with other values."""

    def change(labels: pl.DataFrame) -> pl.DataFrame:
        hit = labels.with_row_index("_").filter(where)["_"][0]
        here = pl.int_range(pl.len()) == hit
        return labels.with_columns(
            pl.when(here).then(v).otherwise(pl.col(k)).alias(k) for k, v in columns.items()
        )

    return chain.changed("labels", LABELS, change)


LABELS = f"labels/{TASK}.parquet"
PREDICTED = pl.col("prediction_time")
POSITIVE = pl.col("boolean_value").fill_null(False)


@leak("labels_keep_window")
def label_at_the_prediction_time(chain):
    return relabelled(chain, POSITIVE, event_time=PREDICTED)


@leak("labels_keep_window")
def label_from_the_past(chain):
    return relabelled(chain, POSITIVE, event_time=PREDICTED - pl.duration(days=3))


@leak("labels_keep_window")
def label_within_the_first_day(chain):
    return relabelled(chain, POSITIVE, event_time=PREDICTED + pl.duration(hours=24))


@leak("labels_keep_window")
def outcome_beyond_the_horizon(chain):
    return relabelled(chain, POSITIVE, event_time=PREDICTED + pl.duration(days=180, microseconds=1))


@leak("labels_keep_window")
def negative_of_somebody_lost_to_follow_up(chain):
    return relabelled(chain, pl.col("reason") == "censored", boolean_value=pl.lit(False))


@leak("labels_keep_window")
def label_in_the_last_week_of_life(chain):
    return relabelled(chain, pl.col("reason") == "end_of_life", boolean_value=pl.lit(False))


def known_at_once(chain: Chain, code: str) -> Chain:
    mine = pl.col("code").str.contains(code)
    return chain.with_(
        meds=chain.events(lambda e: e.with_columns(available_time=pl.when(mine).then(T).otherwise(KNOWN)))
    )


@leak("known_when_declared")
def lab_known_when_the_blood_was_drawn(chain):
    return known_at_once(chain, "^LOINC/")


@leak("known_when_declared")
def report_known_at_the_scan(chain):
    return known_at_once(chain, "^NOTE/")


@leak("known_when_declared")
def diagnosis_of_a_day_known_at_its_midnight(chain):
    return known_at_once(chain, "^ICD10CM/")


@leak("known_when_declared")
def death_known_before_it_happened(chain):
    dead = pl.col("code") == DEATH
    early = pl.when(dead).then(T - pl.duration(days=90)).otherwise(KNOWN)
    return chain.with_(meds=chain.events(lambda e: e.with_columns(available_time=early)))


def in_hospital(chain: Chain, rule: dict[str, Any], *events: dict[str, Any]) -> Chain:
    """A record of one stay of five days, with some more events, and a rule."""
    stay = [event(1, at(0), "ADMITTED"), event(1, at(5), "DISCHARGED"), event(1, at(30), "VISIT")]
    meds = write_meds(chain.folder("stay") / "meds", [*stay, *events])
    return chain.with_(meds=meds, rules=[AvailabilityRule.model_validate(rule)])


STAY = {"start": ["^ADMITTED$"], "end": ["^DISCHARGED$"]}


@leak("known_when_declared")
def billing_code_at_admission(chain):
    rule = {"codes": ["^DX//"], "not_during": STAY}
    return in_hospital(chain, rule, event(1, at(0), "DX//1"), event(1, at(5), "DX//2"))


@leak("known_when_declared")
def billing_code_known_in_the_middle_of_the_stay(chain):
    rule = {"codes": ["^DX//"], "not_during": STAY}
    return in_hospital(chain, rule, event(1, at(0, 1), "DX//1", available=at(2)))


@leak("known_when_declared")
def first_day_score_at_admission(chain):
    rule = {"codes": ["^SCORE$"], "not_before": {"codes": ["^ADMITTED$"], "hours": 24}}
    return in_hospital(chain, rule, event(1, at(0, 2), "SCORE", 7.0))


@leak("known_when_declared")
def culture_read_before_it_can_have_grown(chain):
    return in_hospital(
        chain, {"codes": ["^CULTURE"], "at_least_hours": 24}, event(1, at(1), "CULTURE", available=at(1, 3))
    )


@leak("known_when_declared")
def race_taken_from_the_whole_record(chain):
    return in_hospital(
        chain, {"codes": ["^RACE//"], "timed": True}, event(1, None, "RACE//asked at the third visit")
    )
