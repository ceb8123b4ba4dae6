"""What all simulators promise of files, time, truth and persons.

The science is in test_simulators_science.py and, of the oncology cohort, in test_cohorts_oncology.py.
"""

import csv
import gc
import re
import weakref
from collections import Counter
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from simulators_support import SUBJECTS, TIMED, Simulated, stamp

from ehr_assets.cohorts.synthetic import icu_catalog, pe_catalog, simulate, writer
from ehr_assets.cohorts.synthetic.engine import Course, Dynamics, Traits, truth_columns
from ehr_assets.cohorts.synthetic.registry import SIMULATORS, simulator
from ehr_assets.cohorts.synthetic.tables import HEADERS, concept_ids
from ehr_assets.errors import SpecError


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


def test_no_more_than_two_batches_of_subjects_are_held(tmp_path, monkeypatch):
    """Everything written goes through batches: the one being made, and the one written last."""
    monkeypatch.setattr(simulate, "BATCH", 4)
    live: weakref.WeakSet[writer.Batch] = weakref.WeakSet()
    held: list[int] = []

    class Watched(writer.Batch):
        __hash__ = object.__hash__

        def add(self, *given):
            super().add(*given)
            live.add(self)
            gc.collect()
            held.append(sum(batch.subjects for batch in live))

    class Tables(writer.CohortWriter):
        def add(self, batch):
            super().add(batch)
            assert sum(len(times) for _, times, _ in self._waiting) < 20_000 + 4 * 2_000

    monkeypatch.setattr(simulate, "Batch", Watched)
    monkeypatch.setattr(simulate, "CohortWriter", Tables)
    assert Simulated.run("oncology", tmp_path, 18).counts["subjects"] == 18
    assert len(held) == 18
    assert max(held) <= 2 * 4


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
