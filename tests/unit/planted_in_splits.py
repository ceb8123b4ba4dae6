"""Leaks planted in decision nodes, in splits and persons, and in what a model reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from nodes_support import at, event, write_meds
from planted_guards import GUARDS
from planted_support import (
    KNOWN,
    Chain,
    T,
    leak,
    rewrite,
)

from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.embeddings.windows import Windows
from ehr_assets.leakage.fits import fitted_on
from ehr_assets.meds.reading import scan_events
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes


@leak("nodes_stand_without_future")
def nodes_at_the_time_of_the_event_not_when_it_was_known(chain):
    early = pl.col("time") - pl.duration(hours=20)
    return chain.changed("nodes", "nodes.parquet", lambda n: n.with_columns(early.alias("time")))


@leak("nodes_stand_without_future")
def first_nodes_dropped_where_another_follows(chain):
    first = pl.col("time") == pl.col("time").min().over("subject_id")
    return chain.changed(
        "nodes", "nodes.parquet", lambda n: n.filter(~first | (pl.len().over("subject_id") < 2))
    )


def stays(chain: Chain, change: Callable[[pl.DataFrame], pl.DataFrame], **spec: Any) -> Chain:
    """Nodes 24 hours into stays of one and of nine days, changed afterwards."""
    events = [
        e
        for s in range(1, 9)
        for day, length in ((10, 2), (100, 9))
        for e in (
            event(s, at(day), "ICU"),
            event(s, at(day + length), "ICU/END"),
            event(s, at(day + 50), f"DX/{s % 2}"),
        )
    ]
    trigger = {
        "name": "icu_24h",
        "kind": "event",
        "codes": ["^ICU$"],
        "offset_hours": 24,
        "unless": ["^ICU/END$"],
    }
    nodes_spec = NodesSpec.model_validate({"task_set": "t", "triggers": [trigger], **spec})
    meds = write_meds(chain.folder("stays") / "meds", events)
    find_nodes(nodes_spec, chain.cohort, meds, nodes := chain.folder("nodes"))
    found = chain.with_(meds=meds, nodes=nodes, nodes_spec=nodes_spec)
    assert GUARDS["nodes_stand_without_future"](found)
    return found.changed("nodes", "nodes.parquet", change)


@leak("nodes_stand_without_future")
def icu_nodes_of_long_stays_only(chain):
    return stays(chain, lambda nodes: nodes.filter(pl.col("time") > at(50)))


@leak("nodes_stand_without_future")
def indication_from_the_whole_record(chain):
    known = {"indications": {"one": ["^DX/1$"], "none_yet": ["^DX/0$"]}}
    whole = pl.when(pl.col("subject_id") % 2 == 1).then(pl.lit("one")).otherwise(pl.lit("none_yet"))
    return stays(chain, lambda nodes: nodes.with_columns(whole.alias("indication")), **known)


@leak("splits_disjoint")
def subject_in_two_splits(chain):
    again = pl.lit("held_out").alias("split")
    return chain.dealt(
        lambda s: pl.concat([s, s.filter(pl.col("split") == "train").head(1).with_columns(again)])
    )


@leak("files_follow_splits")
def splits_dealt_anew_after_the_events_were_written(chain):
    return chain.dealt(lambda s: s.with_columns(pl.col("split").shuffle(seed=1)))


@leak("persons_in_one_split")
def person_held_out_of_one_cohort_and_trained_on_in_another(chain):
    other = chain.dealt(lambda s: s.with_columns(pl.col("split").reverse()))
    return chain.with_(splits={**chain.splits, "other": other.splits[chain.cohort]})


@leak("persons_in_one_split")
def person_with_two_subject_ids_in_two_splits(chain):
    def same_person(persons: pl.DataFrame) -> pl.DataFrame:
        a, b = chain.subjects("train")[0], chain.subjects("held_out")[0]
        first = persons.filter(pl.col("subject_id") == a)["person"][0]
        return persons.with_columns(
            person=pl.when(pl.col("subject_id") == b).then(pl.lit(first)).otherwise("person")
        )

    spoiled = chain.dealt(lambda s: s)
    rewrite(spoiled.splits[chain.cohort] / "persons.parquet", same_person)
    return spoiled


def copied(chain: Chain, keep: float) -> Chain:
    """A train subject's record under a held-out subject's id, 100 days later, some events lost."""
    lengths = scan_events(chain.meds).group_by("subject_id").len().collect()
    train = lengths.filter(pl.col("subject_id").is_in(chain.subjects("train"))).sort("len")["subject_id"][-1]
    own = scan_events(chain.meds).filter(pl.col("subject_id") == train).collect()
    held_out = chain.subjects("held_out")[0]
    moved = own.sample(fraction=keep, seed=0).with_columns(
        pl.lit(held_out, dtype=pl.Int64).alias("subject_id"),
        T + pl.duration(days=100),
        KNOWN + pl.duration(days=100),
    )

    def change(events: pl.DataFrame) -> pl.DataFrame:
        if held_out not in events["subject_id"]:
            return events
        return pl.concat([events.filter(pl.col("subject_id") != held_out), moved], how="diagonal").sort(
            "subject_id", "time"
        )

    return chain.with_(meds=chain.events(change))


@leak("no_near_duplicates")
def record_copied_into_another_split(chain):
    return copied(chain, 1.0)


@leak("no_near_duplicates")
def record_copied_with_some_events_lost(chain):
    return copied(chain, 0.97)


def held_out_among_train(chain: Chain) -> Path:
    """The MEDS folder, with the files of held-out subjects among those of train."""
    out = chain.events(lambda e: e)
    for i, path in enumerate(sorted((out / "data" / "held_out").glob("*.parquet"))):
        path.rename(out / "data" / "train" / f"moved{i}.parquet")
    return out


@leak("fitted_on_train_only")
def tokenizer_fitted_on_everybody(chain):
    all_train = chain.dealt(lambda s: s.with_columns(pl.lit("train").alias("split")))
    out = chain.folder("tokenizer")
    meds = {chain.cohort: held_out_among_train(chain)}
    train_tokenizer(chain.corpus_spec, meds, all_train.splits, out)
    return chain.with_(tokenizer=out)


@leak("fitted_on_train_only")
def model_trained_on_held_out_subjects(chain):
    out = chain.folder("checkpoint")
    claim = fitted_on({chain.cohort: chain.subjects("train", "held_out")})
    (out / "fitted_on.json").write_text(json.dumps(claim))
    return chain.with_(checkpoint=out)


@leak("subjects_in_their_splits")
def held_out_subjects_in_the_train_file_of_the_corpus(chain):
    out = chain.folder("corpus")
    write_corpus(chain.corpus_spec, {chain.cohort: held_out_among_train(chain)}, chain.tokenizer, out)
    return chain.with_(corpus=out)


@leak("same_text_without_the_future")
def text_by_the_time_of_the_scan_not_of_the_report(chain):
    out = chain.folder("corpus")
    at_once = chain.events(lambda e: e.with_columns(available_time=T))
    write_corpus(chain.corpus_spec, {chain.cohort: at_once}, chain.tokenizer, out)
    return chain.with_(corpus=out)


@leak("windows_hold_no_future")
def window_a_day_too_late(chain):
    return chain.with_(window=lambda record, t: chain.window(record, t + np.timedelta64(30, "D")))


@leak("newest_known_in_window")
def window_cut_on_the_side_of_the_newest(chain):
    return chain.with_(window=lambda record, t: Windows(100_000).at(record, t)[:256])


@leak("newest_known_in_window")
def window_that_ends_a_month_ago(chain):
    return chain.with_(window=lambda record, t: chain.window(record, t - np.timedelta64(30, "D")))


@leak("planted_future_changes_nothing")
def corpus_of_another_extraction(chain):
    out = chain.folder("corpus")
    fewer = chain.events(lambda e: e.filter(pl.int_range(pl.len()) % 5 > 0))
    write_corpus(chain.corpus_spec, {chain.cohort: fewer}, chain.tokenizer, out)
    return chain.with_(corpus=out)
