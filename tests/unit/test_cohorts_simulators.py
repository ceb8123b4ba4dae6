"""What all simulators promise, and the science of the pulmonary embolism and intensive care cohorts.

More of the oncology cohort is in test_cohorts_oncology.py.
"""

import csv
import re
from collections import Counter
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from simulators_support import TIMED, Simulated, linear_r2, stamp

from ehr_assets.cohorts.synthetic import icu_catalog, pe_catalog, simulate, writer
from ehr_assets.cohorts.synthetic.engine import Course, Dynamics, Traits, truth_columns
from ehr_assets.cohorts.synthetic.registry import SIMULATORS, simulator
from ehr_assets.cohorts.synthetic.tables import HEADERS, concept_ids
from ehr_assets.errors import SpecError

SUBJECTS = {"oncology": 100, "pe": 500, "icu": 250}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[str, Simulated]:
    root = tmp_path_factory.mktemp("worlds")
    return {name: Simulated.run(name, root / name, SUBJECTS[name]) for name in SIMULATORS}


@pytest.fixture(params=SIMULATORS)
def world(request, worlds) -> Simulated:
    return worlds[request.param]


# ---- files


def test_bytes_depend_on_the_seed_alone(world, tmp_path, monkeypatch):
    first = Simulated.run(world.name, tmp_path / "a", 11).bytes()
    monkeypatch.setattr(simulate, "BATCH", 3)
    assert Simulated.run(world.name, tmp_path / "b", 11).bytes() == first
    other = Simulated.run(world.name, tmp_path / "c", 11, seed=5).bytes()
    assert other["measurement.csv"] != first["measurement.csv"]
    assert other["concept.csv"] == first["concept.csv"]


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    # 170 subjects are enough for two workers to be started.
    one, two = (Simulated.run("oncology", tmp_path / str(n), 170, workers=n) for n in (1, 2))
    assert one.bytes() == two.bytes()


def test_a_larger_cohort_begins_with_the_same_subjects(world, tmp_path):
    few = Simulated.run(world.name, tmp_path, 7)
    for path in few.tables.iterdir():
        assert (world.tables / path.name).read_bytes().startswith(path.read_bytes()), path.name
    assert world.truth.head(few.truth.height).equals(few.truth)


def test_no_more_than_a_batch_of_subjects_is_held(tmp_path, monkeypatch):
    """Everything written goes through batches, each let go before the next is made."""
    monkeypatch.setattr(simulate, "BATCH", 4)
    alive: list[int] = []
    most = 0

    class Watched(writer.Batch):
        def add(self, *given):
            super().add(*given)
            nonlocal most
            most = max(most, sum(alive) + self.subjects)

    class Tables(writer.CohortWriter):
        def add(self, batch):
            alive.append(batch.subjects)
            super().add(batch)
            alive.clear()
            assert sum(len(times) for _, times, _ in self._waiting) < 20_000 + 4 * 2_000

    monkeypatch.setattr(simulate, "Batch", Watched)
    monkeypatch.setattr(simulate, "CohortWriter", Tables)
    assert Simulated.run("oncology", tmp_path, 18).counts["subjects"] == 18
    assert most == 4


def test_tables_have_the_omop_columns_and_the_counted_rows(world):
    tables = simulator(world.name).tables
    assert {p.name for p in world.tables.iterdir()} == {f"{t}.csv" for t in tables}
    for table in tables:
        with (world.tables / f"{table}.csv").open(encoding="utf-8", newline="") as f:
            reader = csv.reader(f)
            assert tuple(next(reader)) == HEADERS[table]
            widths = Counter(len(r) for r in reader)
        assert set(widths) <= {len(HEADERS[table])}, table
        assert widths[len(HEADERS[table])] == world.counts[f"rows_{table}"], table
    assert world.counts["subjects"] == world.counts["rows_person"] == world.counts["rows_observation_period"]


def test_keys_are_unique_and_point_somewhere(world):
    tables = simulator(world.name).tables
    visits = {r["visit_occurrence_id"] for r in world.rows("visit_occurrence")}
    concepts = {r["concept_id"] for r in world.rows("concept")} | {"0"}
    for table in tables:
        header = HEADERS[table]
        keys = []
        columns = [c for c in header if c.endswith("concept_id") and "type" not in c and c != "concept_id"]
        for r in world.rows(table):
            keys.append(r[header[0]])
            assert {r[c] for c in columns} <= concepts, table
            assert not r.get("visit_occurrence_id") or r["visit_occurrence_id"] in visits, table
        assert len(keys) == len(set(keys)), table


def test_the_spec_reads_the_columns_that_are_written(world):
    tables = set(simulator(world.name).tables)
    assert {t.file for t in world.spec.tables} == tables - {"observation_period", "concept"}
    for table in world.spec.tables:
        assert set(table.raw_columns()) <= set(HEADERS[table.file]), table.name


def test_an_empty_cohort_has_headers_and_a_readable_truth(world, tmp_path):
    empty = Simulated.run(world.name, tmp_path, 0)
    assert list(empty.rows("person")) == []
    assert empty.truth.columns == ["subject_id", "time", *simulator(world.name).truth_columns]


def test_concept_keys_ids_and_person_ranges_are_unique():
    firsts, streams = [], []
    for name in SIMULATORS:
        concepts = simulator(name).concepts()
        ids = concept_ids(concepts)
        assert len(ids) == len(concepts) == len(set(ids.values())), name
        firsts.append(simulator(name).first_person)
        streams += [simulator(name).stream, simulator(name).stream + 1]
    assert len(set(streams)) == len(streams)
    assert min(np.diff(sorted(firsts))) >= 9_000_000


def test_an_unknown_simulator_is_refused_with_the_known_names():
    with pytest.raises(SpecError, match=r"no simulator 'oncolgy'.*'oncology'"):
        simulator("oncolgy")


def test_defects_are_rare_of_every_kind_and_counted(world):
    persons = {r["person_id"] for r in world.rows("person")}
    found: Counter[str] = Counter()
    for table in set(TIMED) & set(simulator(world.name).tables):
        for r in world.rows(table):
            found["orphan_person"] += r["person_id"] not in persons
            found["unparsable_time"] += stamp(r[TIMED[table][0]]) is None
            number = r.get("value_as_number")
            found["non_numeric"] += bool(number) and not re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?", number)
    assert found == {kind: world.counts[f"defects_{kind}"] for kind in found}
    assert min(found.values()) >= 2
    total = sum(n for k, n in world.counts.items() if k.startswith("rows_"))
    assert 0.001 < sum(found.values()) / total < 0.004


# ---- time and truth


def test_nothing_is_filed_before_it_happens_nor_happens_after_death_or_outside_the_period(world):
    died = {
        r["person_id"]: datetime.fromisoformat(r["death_datetime"] or r["death_date"])
        for r in world.rows("death")
    }
    assert died
    period = {
        r["person_id"]: (r["observation_period_start_date"], r["observation_period_end_date"])
        for r in world.rows("observation_period")
    }
    late = 0
    for table in set(TIMED) & set(simulator(world.name).tables):
        time_column, filing = TIMED[table]
        ends = [c for c in HEADERS[table] if c.endswith("_end_datetime")]
        for r in world.rows(table):
            at, who = stamp(r[time_column]), r["person_id"]
            if at is None or who not in period:
                continue
            assert period[who][0] <= at.date().isoformat() <= period[who][1], table
            # A date alone says nothing about the hour; how a stay ended is told at its end.
            last = died.get(who, datetime.max)
            assert at < last or (at == last and table == "observation"), table
            for end in ends:
                assert at <= datetime.fromisoformat(r[end]) <= last, table
            if filing:
                filed = datetime.fromisoformat(r[filing])
                assert filed > at, table
                late += filed - at > timedelta(hours=1)
    assert late > 200  # there is a delay to be honest about


def test_truth_is_told_in_order_for_every_subject_and_stays_out_of_the_tables(world):
    columns = simulator(world.name).truth_columns
    assert world.truth.columns == ["subject_id", "time", *columns]
    assert world.truth.null_count().sum_horizontal().item() == 0
    assert np.isfinite(world.truth.select(columns).to_numpy()).all()
    assert world.truth.height == world.counts["latent_rows"]
    assert {str(i) for i in world.truth["subject_id"].unique()} == {
        r["person_id"] for r in world.rows("person")
    }
    assert world.truth["subject_id"].is_sorted()
    gaps = world.truth.with_columns(gap=pl.col("time").diff().over("subject_id"))["gap"].drop_nulls()
    assert gaps.min() > timedelta(0)
    secret = re.compile(r"z_|latent|severity|velocity|organization|\bclot\b|resist", re.IGNORECASE)
    for table in simulator(world.name).tables:
        assert not secret.search((world.tables / f"{table}.csv").open(encoding="utf-8").readline()), table
    for row in world.rows("concept"):
        assert not secret.search(row["concept_name"]), row["concept_name"]


def test_states_are_named_as_the_field_names_them():
    assert {"z_clot", "z_organization", "z_velocity", "z_site_central"} <= set(
        truth_columns(pe_catalog.DYNAMICS)
    )
    assert {"z_severity", "z_treatment_failure", "z_site_renal"} <= set(truth_columns(icu_catalog.DYNAMICS))
    assert pe_catalog.DYNAMICS.step == timedelta(days=1)
    assert icu_catalog.DYNAMICS.step == timedelta(hours=1)


def test_an_acute_event_sets_the_state_within_bounds():
    dynamics = Dynamics(sites=("A",), step=timedelta(hours=1))
    traits = Traits(growth=0.0, resistance_rate=0.0, reserve_setpoint=0.0, site_affinity=(0.0,))
    course = Course(dynamics, traits, [], burden=-2.0, reserve=0.0, site_offsets=(0.0,))
    course.strike(99.0, 0.2)
    assert (course.burden, course.velocity) == (dynamics.capacity, 0.2)


# ---- persons in several cohorts


def _roster(world: Simulated) -> pl.DataFrame:
    people = pl.read_csv(world.tables / "person.csv", infer_schema=False)
    splits = pl.read_parquet(world.splits / "subject_splits.parquet")
    return people.with_columns(pl.col("person_id").cast(pl.Int64).alias("subject_id")).join(
        splits, on="subject_id", validate="1:1"
    )


@pytest.mark.parametrize("other", ["pe", "icu"])
def test_a_person_in_two_cohorts_is_the_same_and_falls_in_the_same_split(worlds, other):
    same = ["gender_concept_id", "birth_datetime", "race_concept_id", "split"]
    rosters = {name: _roster(worlds[name]) for name in ("oncology", other)}
    for roster in rosters.values():
        assert roster["person_source_value"].is_unique().all()
    both = rosters["oncology"].join(rosters[other], on="person_source_value")
    assert both.height >= 0.1 * SUBJECTS["oncology"]
    assert set(both["split"]) >= {"train", "held_out"}
    for column in same:
        assert both[column].equals(both[f"{column}_right"]), column
    assert not set(rosters["oncology"]["subject_id"]) & set(rosters[other]["subject_id"])
    specs = [worlds[name].spec for name in SIMULATORS]
    assert {s.subjects.person_key for s in specs} == {"person_source_value"}
    assert len({s.splits.config_hash() for s in specs}) == 1
    assert len({s.source.seed for s in specs}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("other", ["pe", "icu"])
def test_nobody_dies_in_one_cohort_and_falls_ill_in_another_later(worlds, other):
    """Who shares a person was alive at the end there, before the first record of the cancer."""
    keys = {r["person_source_value"]: r["person_id"] for r in worlds["oncology"].rows("person")}
    shared = {
        r["person_id"]: keys[r["person_source_value"]]
        for r in worlds[other].rows("person")
        if r["person_source_value"] in keys
    }
    assert not shared.keys() & {r["person_id"] for r in worlds[other].rows("death")}
    begins = {
        r["person_id"]: r["observation_period_start_date"]
        for r in worlds["oncology"].rows("observation_period")
    }
    ends = {
        r["person_id"]: r["observation_period_end_date"] for r in worlds[other].rows("observation_period")
    }
    assert shared
    for there, here in shared.items():
        assert ends[there] < begins[here]


# ---- science


def _views(world: Simulated, codes: list[str], within: timedelta, before: timedelta = timedelta(0)):
    """Per node: last value, mean and slope of each code known by then, missing ones at the median."""
    nodes = pl.read_parquet(world.nodes / "nodes.parquet").select("node_id", "subject_id", t="time")
    events = pl.scan_parquet(world.meds[0] / "data" / "**" / "*.parquet").filter(pl.col("code").is_in(codes))
    seen = (
        events.collect()
        .join(nodes, on="subject_id")
        .filter(pl.col("available_time") <= pl.col("t") - before, pl.col("time") > pl.col("t") - within)
        .with_columns(h=(pl.col("time") - pl.col("t")).dt.total_minutes() / 60)
        .sort("node_id", "time")
        .group_by("node_id", "code")
        .agg(
            last=pl.col("numeric_value").last(),
            mean=pl.col("numeric_value").mean(),
            slope=pl.cov("h", "numeric_value") / pl.col("h").var(),
        )
        .pivot(on="code", index="node_id", values=["last", "mean", "slope"])
    )
    wide = nodes.join(seen, on="node_id", how="left", maintain_order="left").fill_nan(None)
    return wide.with_columns(
        pl.col(pl.Float64, pl.Float32).fill_null(pl.col(pl.Float64, pl.Float32).median())
    )


def _latent(world: Simulated, column: str, after: timedelta, tolerance: str) -> pl.Series:
    """The state at each node + `after`; null where the subject is no longer followed."""
    nodes = pl.read_parquet(world.nodes / "nodes.parquet").with_row_index()
    states = world.truth.select("subject_id", "time", column).sort("time")
    return (
        nodes.with_columns(pl.col("time") + after)
        .sort("time")
        .join_asof(states, on="time", by="subject_id", tolerance=tolerance, check_sortedness=False)
        .sort("index")[column]
    )


def test_in_the_icu_the_future_is_in_the_trend_and_not_in_the_last_values(worlds):
    """Severity a day after the node less severity now: monitors and laboratory of the day before it."""
    world = worlds["icu"]
    codes = [f"LOINC/{c}" for c in ("8867-4", "8478-0", "9279-1", "59408-5", "2160-0", "9187-6", "777-3")]
    views = _views(world, codes, timedelta(hours=24))
    ahead = _latent(world, "z_severity", timedelta(hours=24), "2h")
    change = (ahead - _latent(world, "z_severity", timedelta(0), "2h")).to_numpy()
    there = np.isfinite(change)
    assert there.sum() > 150
    groups = views["subject_id"].to_numpy()[there]
    last = views.select(pl.col("^last_.*$")).to_numpy()[there]
    trend = views.select(pl.col("^slope_.*$")).to_numpy()[there]
    now = linear_r2(last, change[there], groups)
    history = linear_r2(np.column_stack([last, trend]), change[there], groups)
    assert now < 0.1
    assert history > now + 0.08


def test_after_an_embolism_history_tells_of_the_reserve_to_come(worlds):
    """The reserve four months on: with what was usual for the person before, it is better foreseen."""
    world = worlds["pe"]
    codes = [f"LOINC/{c}" for c in ("8867-4", "8480-6", "59408-5", "33762-6", "718-7", "2160-0")]
    stay = _views(world, codes, timedelta(days=3)).select("subject_id", pl.col("^last_.*$"))
    years = _views(world, codes, timedelta(days=800), timedelta(days=16)).select(
        pl.col("^mean_.*$").name.suffix("_before")
    )
    reserve = _latent(world, "z_reserve", timedelta(days=120), "8d").to_numpy()
    there = np.isfinite(reserve)
    groups = stay["subject_id"].to_numpy()[there]
    now = stay.drop("subject_id").to_numpy()[there]
    history = np.column_stack([now, years.to_numpy()[there]])
    assert linear_r2(history, reserve[there], groups) > linear_r2(now, reserve[there], groups) + 0.03


def test_the_embolism_cohort_has_plausible_outcomes(worlds):
    world = worlds["pe"]
    stats = world.meds[1]
    assert stats["quarantined"] == sum(n for k, n in world.counts.items() if k.startswith("defects_"))
    assert 300 < stats["events"] / SUBJECTS["pe"] < 800
    nodes = pl.read_parquet(world.nodes / "nodes.parquet")
    assert nodes.height >= 0.98 * SUBJECTS["pe"]
    assert nodes["subject_id"].is_unique().all()
    rate = world.rates()
    assert set(rate) == {
        *(f"{what}_{days}d" for what in ("mortality", "readmission") for days in (30, 180, 365)),
        "pulmonary_hypertension_365d",
    }
    died = {int(r["person_id"]): datetime.fromisoformat(r["death_date"]) for r in world.rows("death")}
    soon = [died[s] - t < timedelta(days=30) for s, t in nodes["subject_id", "time"].iter_rows() if s in died]
    assert 0.04 < sum(soon) / nodes.height < 0.11
    assert 0.02 < rate["mortality_30d"] < rate["mortality_180d"] < rate["mortality_365d"] < 0.30
    assert 0.11 < rate["readmission_30d"] < 0.23
    assert rate["readmission_30d"] < rate["readmission_180d"] < rate["readmission_365d"] < 0.65
    assert 0.005 < rate["pulmonary_hypertension_365d"] < 0.06
    notes = [r["note_text"] for r in world.rows("note")]
    assert 0.05 < sum(n.startswith("No pulm") for n in notes) / len(notes) < 0.3


def test_the_icu_cohort_has_plausible_stays_support_and_outcomes(worlds):
    world, n = worlds["icu"], SUBJECTS["icu"]
    assert 500 < world.meds[1]["events"] / n < 1500
    assert world.meds[1]["quarantined"] == sum(x for k, x in world.counts.items() if k.startswith("defects_"))
    ids = {i: key for key, i in concept_ids(icu_catalog.concepts()).items()}
    assert 0.06 < world.counts["deaths"] / n < 0.17
    ventilated = {
        r["person_id"]
        for r in world.rows("device_exposure")
        if ids[int(r["device_concept_id"])] == icu_catalog.VENTILATOR
    }
    assert 0.3 < len(ventilated) / n < 0.6
    pressed = {
        r["person_id"]
        for r in world.rows("drug_exposure")
        if ids[int(r["drug_concept_id"])] == icu_catalog.DRUG_KEY["norepinephrine"]
    }
    assert 0.12 < len(pressed) / n < 0.4
    hours = [
        (datetime.fromisoformat(r["visit_detail_end_datetime"]) - datetime.fromisoformat(
            r["visit_detail_start_datetime"])) / timedelta(hours=1)
        for r in world.rows("visit_detail")
    ]  # fmt: skip
    assert 30 < np.median(hours) < 80
    rate = world.rates()
    assert 0.04 < rate["in_hospital_mortality_30d"] < 0.18
    assert 0.01 < rate["vasopressor_start_2d"] < 0.15
    assert 0 < rate["intubation_1d"] <= rate["intubation_2d"] < 0.15
    assert rate["vasopressor_start_1d"] <= rate["vasopressor_start_2d"]


def test_the_sicker_are_looked_at_more_often(worlds):
    """Heart rates charted in an hour of the ICU, by the severity that only the truth knows."""
    world = worlds["icu"]
    charted = (
        pl.scan_parquet(world.meds[0] / "data" / "**" / "*.parquet")
        .filter(pl.col("code") == "LOINC/8867-4")
        .select("subject_id", "time", seen=pl.lit(1))
        .collect()
        .sort("time")
    )
    hours = world.truth.filter(pl.col("z_in_icu") == 1).sort("time")
    joined = hours.join_asof(
        charted, on="time", by="subject_id", strategy="forward", tolerance="59m", check_sortedness=False
    )
    sick = (
        joined.group_by(pl.col("z_severity") > 0.9)
        .agg(pl.col("seen").is_not_null().mean())
        .sort("z_severity")
    )
    stable, ill = sick["seen"]
    assert ill > 0.8
    assert ill > stable + 0.2
