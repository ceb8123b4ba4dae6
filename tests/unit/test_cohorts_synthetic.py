"""The embedded oncology cohort: its tables, its honesty about time, and the science it must carry."""

import csv
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.cohorts.synthetic import oncology_catalog as catalog
from ehr_assets.cohorts.synthetic.engine import Course, Dynamics, Traits, Treatment, truth_columns
from ehr_assets.cohorts.synthetic.oncology import SIMULATOR
from ehr_assets.cohorts.synthetic.simulate import simulate as run_simulator
from ehr_assets.cohorts.synthetic.tables import HEADERS, concept_ids
from ehr_assets.meds.extract import extract_meds
from ehr_assets.nodes.labels import label_nodes
from ehr_assets.nodes.spec import load_task_set, task_set_path
from ehr_assets.nodes.triggers import find_nodes

SPEC = Path(catalog.__file__).parents[1] / "specs" / "synthetic_oncology.yaml"
SEED = 20260101
TIMED = {  # table: (time column, filing column)
    "visit_occurrence": ("visit_start_datetime", None),
    "condition_occurrence": ("condition_start_date", None),
    "drug_exposure": ("drug_exposure_start_datetime", None),
    "measurement": ("measurement_datetime", "filed_datetime"),
    "observation": ("observation_datetime", "filed_datetime"),
    "procedure_occurrence": ("procedure_date", None),
    "note": ("note_datetime", "filed_datetime"),
}


def simulate(root: Path, subjects: int, seed: int = SEED) -> tuple[Path, Path, dict[str, int]]:
    tables, truth = root / "tables", root / "truth"
    tables.mkdir(parents=True)
    truth.mkdir()
    return tables, truth, run_simulator("oncology", tables, truth, subjects=subjects, seed=seed)


def headers() -> dict[str, tuple[str, ...]]:
    return {table: HEADERS[table] for table in SIMULATOR.tables}


def rows(tables: Path, table: str) -> Iterator[dict[str, str]]:
    with (tables / f"{table}.csv").open(encoding="utf-8", newline="") as f:
        yield from csv.DictReader(f)


def stamp(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, Path, dict[str, int]]:
    """The default cohort: 600 subjects."""
    return simulate(tmp_path_factory.mktemp("oncology"), 600)


@pytest.fixture(scope="module")
def persons(cohort) -> set[str]:
    return {r["person_id"] for r in rows(cohort[0], "person")}


# ---- files


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(tmp_path):
    first, first_truth, counts = simulate(tmp_path / "a", 12)
    second, second_truth, again = simulate(tmp_path / "b", 12)
    other, _, _ = simulate(tmp_path / "c", 12, seed=SEED + 1)
    assert counts == again
    for table in SIMULATOR.tables:
        name = f"{table}.csv"
        assert (first / name).read_bytes() == (second / name).read_bytes(), table
    name = "latent_states.parquet"
    assert (first_truth / name).read_bytes() == (second_truth / name).read_bytes()
    assert (first / "measurement.csv").read_bytes() != (other / "measurement.csv").read_bytes()


def test_a_larger_cohort_begins_with_the_same_subjects(cohort, tmp_path):
    few, few_truth, _ = simulate(tmp_path, 25)
    for table in SIMULATOR.tables:
        small, large = (d / f"{table}.csv" for d in (few, cohort[0]))
        assert large.read_bytes().startswith(small.read_bytes()), table
    small, large = (pl.read_parquet(d / "latent_states.parquet") for d in (few_truth, cohort[1]))
    assert large.head(small.height).equals(small)


def test_tables_have_the_omop_columns_and_the_counted_rows(cohort):
    tables, _, counts = cohort
    assert {p.name for p in tables.iterdir()} == {f"{t}.csv" for t in SIMULATOR.tables}
    for table, header in headers().items():
        with (tables / f"{table}.csv").open(encoding="utf-8", newline="") as f:
            reader = csv.reader(f)
            assert tuple(next(reader)) == header
            widths = Counter(len(r) for r in reader)
        assert set(widths) == {len(header)}, table
        assert widths[len(header)] == counts[f"rows_{table}"], table
    assert counts["subjects"] == counts["rows_person"] == counts["rows_observation_period"] == 600


def test_keys_are_unique_and_point_somewhere(cohort):
    tables, _, _ = cohort
    for table, header in headers().items():
        keys = [r[header[0]] for r in rows(tables, table)]
        assert len(keys) == len(set(keys)), table
    visits = {r["visit_occurrence_id"] for r in rows(tables, "visit_occurrence")}
    concepts = {r["concept_id"] for r in rows(tables, "concept")} | {"0"}
    for table, header in headers().items():
        columns = [c for c in header if c.endswith("concept_id") and "type" not in c and c != "concept_id"]
        for r in rows(tables, table):
            assert {r[c] for c in columns} <= concepts, table
            assert not r.get("visit_occurrence_id") or r["visit_occurrence_id"] in visits


def test_an_empty_cohort_has_headers_and_a_readable_truth(tmp_path):
    tables, truth, counts = simulate(tmp_path, 0)
    assert list(rows(tables, "person")) == []
    assert len(list(rows(tables, "concept"))) == counts["rows_concept"] > 0
    latent = pl.read_parquet(truth / "latent_states.parquet")
    assert latent.height == 0
    assert latent.columns == ["subject_id", "time", *SIMULATOR.truth_columns]


def test_defects_are_rare_of_every_kind_and_counted(cohort, persons):
    tables, _, counts = cohort
    found: Counter[str] = Counter()
    for table, (time_column, _) in TIMED.items():
        for r in rows(tables, table):
            found["orphan_person"] += r["person_id"] not in persons
            found["unparsable_time"] += stamp(r[time_column]) is None
            number = r.get("value_as_number")
            found["non_numeric"] += bool(number) and not re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?", number)
    assert found == {kind: counts[f"defects_{kind}"] for kind in found}
    assert len(found) == 3
    assert min(found.values()) >= 5
    total = sum(counts[f"rows_{t}"] for t in SIMULATOR.tables if t != "concept")
    assert 0.001 < sum(found.values()) / total < 0.01


# ---- time


def test_nothing_is_filed_before_it_happens_nor_happens_from_the_day_of_death_on(cohort, persons):
    tables, _, counts = cohort
    died = {r["person_id"]: datetime.fromisoformat(r["death_date"]) for r in rows(tables, "death")}
    period = {
        r["person_id"]: (r["observation_period_start_date"], r["observation_period_end_date"])
        for r in rows(tables, "observation_period")
    }
    assert 0.25 < len(died) / counts["subjects"] < 0.55  # 42.9 % in SMB-Structure Table 8
    late = 0
    for table, (time_column, filing) in TIMED.items():
        for r in rows(tables, table):
            at, who = stamp(r[time_column]), r["person_id"]
            if at is None or who not in persons:
                continue
            assert period[who][0] <= at.date().isoformat() <= period[who][1], table
            assert who not in died or at < died[who], table
            if filing:
                filed = datetime.fromisoformat(r[filing])
                assert filed > at, table
                late += (filed - at).days >= 1
    assert late > 1000  # there is a delay to be honest about
    for r in rows(tables, "visit_occurrence"):
        if r["person_id"] in died:
            assert datetime.fromisoformat(r["visit_end_datetime"]) <= died[r["person_id"]]


def test_follow_up_varies_and_lies_in_the_calendar(cohort):
    days = []
    for r in rows(cohort[0], "observation_period"):
        start, end = r["observation_period_start_date"], r["observation_period_end_date"]
        assert "2010-01-01" <= start <= end <= "2023-12-31"
        days.append((datetime.fromisoformat(end) - datetime.fromisoformat(start)).days)
    assert max(days) <= 6.01 * 365.25
    assert np.percentile(days, 10) < 300
    assert np.percentile(days, 90) > 1200


# ---- science


def test_truth_is_the_present_state_and_stays_out_of_the_tables(cohort, persons):
    tables, truth, counts = cohort
    assert [p.name for p in truth.iterdir()] == ["latent_states.parquet"]
    latent = pl.read_parquet(truth / "latent_states.parquet")
    assert latent.columns == ["subject_id", "time", *SIMULATOR.truth_columns]
    assert dict(latent.schema) == {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        **dict.fromkeys(SIMULATOR.truth_columns, pl.Float64),
    }
    assert {c for c in SIMULATOR.truth_columns if c.startswith("z_site_")} == {
        f"z_site_{s.lower()}" for s in catalog.SITES
    }
    assert latent.null_count().sum_horizontal().item() == 0
    assert latent.height == counts["latent_rows"]
    assert {str(i) for i in latent["subject_id"].unique()} == persons
    gaps = latent.with_columns(gap=pl.col("time").diff().over("subject_id"))["gap"].drop_nulls()
    assert gaps.min() > pl.Series([0]).cast(pl.Duration("us")).item()  # type: ignore[operator]
    assert gaps.max().days <= 7  # type: ignore[union-attr]
    for table in SIMULATOR.tables:
        header = (tables / f"{table}.csv").open(encoding="utf-8").readline()
        assert not re.search(r"z_|burden|velocity|latent", header), table


def _linear_r2(features: np.ndarray, target: np.ndarray, groups: np.ndarray) -> float:
    """R² of a linear model on subjects it was not fitted on."""
    X = np.column_stack([np.ones(len(features)), features])
    train = groups % 2 == 0
    beta, *_ = np.linalg.lstsq(X[train], target[train], rcond=None)
    error, test = target[~train] - X[~train] @ beta, target[~train]
    return 1.0 - float((error**2).mean() / test.var())


def test_velocity_is_in_the_trend_and_not_in_any_last_event(cohort, persons):
    """At every third or later scan: the last size, lab value, ECOG or response tells little of the velocity,
    the change between scans much. Values count only once filed."""
    tables, truth, _ = cohort
    latent = {k[0]: d for k, d in pl.read_parquet(truth / "latent_states.parquet").group_by("subject_id")}
    keys = {i: key for key, i in concept_ids(catalog.concepts()).items()}
    channels = ["LOINC/2532-0", "LOINC/1751-7", "LOINC/718-7", catalog.ECOG]
    responses = ["CR", "PR", "SD", "PD"]
    seen: dict[str, list[tuple[datetime, str, float]]] = {}
    for table in ("measurement", "observation"):
        for r in rows(tables, table):
            key = keys[int(r[f"{table}_concept_id"])]
            number = r["value_as_number"]
            if key.startswith("ONC/RESPONSE/"):
                key, number = "response", str(responses.index(key[-2:]))
            try:
                value = float(number)
            except ValueError:
                continue
            if key in [*channels, "response"]:
                filed = datetime.fromisoformat(r["filed_datetime"])
                seen.setdefault(r["person_id"], []).append((filed, key, value))
    sizes: dict[str, list[tuple[datetime, datetime, float]]] = {}
    for r in rows(tables, "note"):
        at, found = stamp(r["note_datetime"]), re.search(r"lesions (\d+) mm", r["note_text"])
        if at is not None and r["person_id"] in persons:
            size = math.log(float(found[1]) if found else 15.0)
            sizes.setdefault(r["person_id"], []).append(
                (datetime.fromisoformat(r["filed_datetime"]), at, size)
            )
    last, trend, velocity, groups = [], [], [], []
    for who, scans in sizes.items():
        scans.sort(key=lambda s: s[1])
        records, states = sorted(seen.get(who, [])), latent[int(who)]
        for (_, at0, s0), (_, at1, s1), (now, at2, s2) in zip(scans, scans[1:], scans[2:], strict=False):
            known = {key: value for filed, key, value in records if filed <= now}  # the latest of each
            if not set(channels) <= set(known):
                continue
            weeks = max((at2 - at1).days, 1) / 7, max((at1 - at0).days, 1) / 7
            response = [float(known.get("response") == k) for k in range(len(responses))]
            last.append([s2, *(known[c] for c in channels), *response])
            trend.append([(s2 - s1) / weeks[0], (s1 - s0) / weeks[1]])
            velocity.append(states.filter(pl.col("time") <= at2)["z_velocity"][-1])
            groups.append(int(who))
    y, g, x = np.array(velocity), np.array(groups), np.array(last)
    assert len(y) > 1000
    n = len(channels) + 1
    single = [_linear_r2(x[:, [k]], y, g) for k in range(n)] + [_linear_r2(x[:, n:], y, g)]
    trended = _linear_r2(np.column_stack([x, trend]), y, g)
    assert max(single) < 0.12
    assert _linear_r2(x, y, g) < 0.15
    assert trended > 0.25
    assert trended > 2.5 * _linear_r2(x, y, g)


def test_events_nodes_and_label_prevalences_make_the_tasks_learnable(cohort, tmp_path):
    """The whole way from the tables to the labels by the cohort's own spec."""
    spec = load_cohort(SPEC)
    people = [int(r["person_id"]) for r in rows(cohort[0], "person")]
    splits = pl.DataFrame({"subject_id": people, "split": "train"})
    meds, nodes, labels = (tmp_path / name for name in ("meds", "nodes", "labels"))
    for folder in (meds, nodes, labels):
        folder.mkdir()
    stats = extract_meds(spec, cohort[0], splits, meds)
    assert 110 <= stats["events"] / 600 <= 145  # 127 in SMB-Structure Table 8
    assert stats["quarantined"] == sum(n for k, n in cohort[2].items() if k.startswith("defects_"))
    assert stats["quarantined_fraction"] < spec.quarantine_threshold
    found = find_nodes(spec.decision_nodes, spec.name, meds, nodes)
    assert 3 <= found["nodes"] / 600 <= 8
    assert min(found["by_trigger"].values()) >= 150
    assert set(found["by_indication"]) - {"none"} == {i.name for i in catalog.INDICATIONS}
    tasks = load_task_set(task_set_path(spec.decision_nodes.task_set))
    label_nodes(tasks, spec.decision_nodes, nodes, meds, labels)
    table = pl.read_parquet(labels / "labels.parquet").drop_nulls("boolean_value")
    rate = dict(table.group_by("task").agg(pl.col("boolean_value").mean()).iter_rows())
    assert 0.15 <= rate["mortality_365d"] <= 0.35
    assert 0.10 <= rate["toxicity_grade3_any_90d"] <= 0.30
    assert 0.30 <= rate["next_line_365d"] <= 0.60
    assert 0.15 <= rate["response_180d"] <= 0.40
    for site in catalog.SITES:
        assert 0.04 <= rate[f"progression_{site.lower()}_180d"] <= 0.30, site


# ---- the spec, the registry, the engine


def test_the_spec_reads_the_columns_that_are_written(cohort):
    spec = load_cohort(SPEC)
    assert {t.file for t in spec.tables} == set(SIMULATOR.tables) - {"observation_period", "concept"}
    for table in spec.tables:
        assert set(table.raw_columns()) <= set(HEADERS[table.file]), table.name
        for join in table.joins:
            assert join.columns_there() <= set(HEADERS[join.file]), table.name


def test_the_spec_knows_every_agent_operation_and_indication():
    nodes = load_cohort(SPEC).decision_nodes
    triggers = {t.name: t.codes[0] for t in nodes.triggers}
    keys = [c.key for c in catalog.concepts()]
    agents = {a for i in catalog.INDICATIONS for line in i.lines for a in line.agents}
    agents |= {
        a for i in catalog.INDICATIONS if i.first_line_alternative for a in i.first_line_alternative.agents
    }
    supportive = {"ondansetron", "dexamethasone", "filgrastim", "morphine"}
    systemic = {catalog.DRUG_KEY[a] for a in set(catalog.DRUGS) - supportive}
    assert {k for k in keys if re.search(triggers["start_of_therapy"], k)} == systemic
    assert {catalog.DRUG_KEY[a] for a in agents} <= systemic
    operations = {f"CPT4/{i.surgery}" for i in catalog.INDICATIONS}
    assert {k for k in keys if re.search(triggers["curative_surgery"], k)} == operations
    assert {k for k in keys if re.search(triggers["metastatic_diagnosis"], k)} == set(
        catalog.METASTASIS.values()
    )
    for i in catalog.INDICATIONS:
        matches = [
            name
            for name, (pattern, *_) in nodes.indications.items()
            if re.search(pattern, f"ICD10CM/{i.code}")
        ]
        assert matches == [i.name]
        firsts = [frozenset(line.agents) for line in i.lines]
        assert len(set(firsts)) == 3
        # Every line brings an agent that no earlier one had; otherwise it would be no new line in the record.
        for k, line in enumerate(i.lines[1:], start=1):
            assert set(line.agents) - {a for earlier in i.lines[:k] for a in earlier.agents}, i.name


def test_concept_keys_and_ids_are_unique():
    concepts = catalog.concepts()
    ids = concept_ids(concepts)
    assert len(ids) == len(concepts) == len(set(ids.values()))
    assert math.isclose(sum(catalog.WEIGHTS), 1.0)
    assert all(math.isclose(sum(i.stages), 1.0) for i in catalog.INDICATIONS)


def test_the_registry_is_light_and_runs_the_simulator(tmp_path):
    code = (
        "import sys, ehr_assets.cohorts.synthetic.registry as r; assert 'oncology' in r.SIMULATORS; "
        "assert not {'numpy', 'pyarrow', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for folder in ("tables", "truth"):
        (tmp_path / folder).mkdir()
    calls: list[tuple[str, int, int]] = []
    counts = run_simulator(
        "oncology",
        tmp_path / "tables",
        tmp_path / "truth",
        subjects=3,
        seed=1,
        progress=lambda phase, done, total: calls.append((phase, done, total)),
    )
    assert counts["subjects"] == 3
    assert calls[-1][1:] == (3, 3)


def quiet_course(weeks: int = 200, **traits) -> Course:
    """A course without noise."""
    dynamics = Dynamics(sites=("A", "B"), step=timedelta(days=1))
    given = {"growth": 0.03, "resistance_rate": 0.03, "reserve_setpoint": 0.0, "site_affinity": (-1.0, 0.0)}
    noise = [[0.0] * dynamics.noises] * weeks
    return Course(
        dynamics, Traits(**{**given, **traits}), noise, burden=1.0, reserve=0.0, site_offsets=(-1.0, 0.0)
    )


def test_treatment_turns_the_velocity_with_a_delay_and_resistance_turns_it_back():
    course = quiet_course()
    course.start(Treatment(potency=0.08, toxicity=0.02))
    course.step()
    assert course.velocity > 0.0 > course.drift  # still growing, though the drug already pulls the other way
    for _ in range(12):
        course.step()
    assert course.velocity < 0.0
    assert course.reserve < -0.1
    for _ in range(120):
        course.step()
    assert course.velocity > 0.0  # resistance
    before = course.resistance
    course.start(Treatment(potency=0.08, toxicity=0.0))
    assert course.resistance == pytest.approx(before * course.dynamics.cross_resistance)


def test_equal_burdens_with_other_velocities_have_other_futures():
    rising, falling = quiet_course(), quiet_course()
    rising.velocity, falling.velocity = 0.05, -0.05
    assert rising.burden == falling.burden
    for _ in range(8):
        rising.step()
        falling.step()
    assert rising.burden - falling.burden > 0.3
    assert rising.hazard > falling.hazard


def test_burden_stays_in_bounds_and_the_hazard_is_a_probability():
    course = quiet_course(2000, growth=0.5)
    for _ in range(1000):
        course.step()
        assert course.dynamics.floor <= course.burden <= course.dynamics.capacity
        assert 0.0 < course.hazard < 1.0
    course.remove(100.0, 1, -2.0)
    assert course.burden == course.dynamics.floor
    assert course.sites[1] == course.burden - 2.0
    assert len(course.truth()) == len(truth_columns(course.dynamics))
