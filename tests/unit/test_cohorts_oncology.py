"""The embedded oncology cohort: its follow-up and the science it must carry; and the engine of them all.

What every simulator promises (files, time, truth, persons) is in test_cohorts_simulators.py.
"""

import math
import re
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from simulators_support import Simulated, linear_r2, stamp

from ehr_assets.cohorts.synthetic import oncology_catalog as catalog
from ehr_assets.cohorts.synthetic.engine import Course, Dynamics, Traits, Treatment, truth_columns
from ehr_assets.cohorts.synthetic.oncology import SIMULATOR
from ehr_assets.cohorts.synthetic.tables import concept_ids


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Simulated:
    """The default cohort: 600 subjects."""
    return Simulated.run("oncology", tmp_path_factory.mktemp("oncology"), 600)


# ---- time


def test_follow_up_varies_and_lies_in_the_calendar(cohort):
    days = []
    for r in cohort.rows("observation_period"):
        start, end = r["observation_period_start_date"], r["observation_period_end_date"]
        assert "2010-01-01" <= start <= end <= "2023-12-31"
        days.append((datetime.fromisoformat(end) - datetime.fromisoformat(start)).days)
    assert max(days) <= 6.01 * 365.25
    assert np.percentile(days, 10) < 300
    assert np.percentile(days, 90) > 1200


# ---- science


def test_the_truth_has_every_site_at_least_weekly(cohort):
    assert {c for c in SIMULATOR.truth_columns if c.startswith("z_site_")} == {
        f"z_site_{s.lower()}" for s in catalog.SITES
    }
    gaps = cohort.truth.with_columns(gap=pl.col("time").diff().over("subject_id"))["gap"].drop_nulls()
    assert gaps.max() <= timedelta(days=7)
    assert 0.25 < cohort.counts["deaths"] / 600 < 0.55  # 42.9 % in SMB-Structure Table 8


def test_velocity_is_in_the_trend_and_not_in_any_last_event(cohort):
    """At every third or later scan: the last size, lab value, ECOG or response tells little of the velocity,
    the change between scans much. Values count only once filed."""
    latent = {k[0]: d for k, d in cohort.truth.group_by("subject_id")}
    persons = {r["person_id"] for r in cohort.rows("person")}
    keys = {i: key for key, i in concept_ids(catalog.concepts()).items()}
    channels = ["LOINC/2532-0", "LOINC/1751-7", "LOINC/718-7", catalog.ECOG]
    responses = ["CR", "PR", "SD", "PD"]
    seen: dict[str, list[tuple[datetime, str, float]]] = {}
    for table in ("measurement", "observation"):
        for r in cohort.rows(table):
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
    for r in cohort.rows("note"):
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
    single = [linear_r2(x[:, [k]], y, g) for k in range(n)] + [linear_r2(x[:, n:], y, g)]
    trended = linear_r2(np.column_stack([x, trend]), y, g)
    assert max(single) < 0.12
    assert linear_r2(x, y, g) < 0.15
    assert trended > 0.25
    assert trended > 2.5 * linear_r2(x, y, g)


def test_events_nodes_and_label_prevalences_make_the_tasks_learnable(cohort):
    """The whole way from the tables to the labels by the cohort's own spec."""
    stats = cohort.meds[1]
    assert 110 <= stats["events"] / 600 <= 145  # 127 in SMB-Structure Table 8
    assert stats["quarantined"] == sum(n for k, n in cohort.counts.items() if k.startswith("defects_"))
    assert stats["quarantined_fraction"] < cohort.spec.quarantine_threshold
    nodes = pl.read_parquet(cohort.nodes / "nodes.parquet")
    assert 3 <= nodes.height / 600 <= 8
    assert nodes.explode("trigger").group_by("trigger").len()["len"].min() >= 150
    assert set(nodes["indication"].drop_nulls()) == {i.name for i in catalog.INDICATIONS}
    rate = cohort.rates()
    assert 0.15 <= rate["mortality_365d"] <= 0.35
    assert 0.10 <= rate["toxicity_grade3_any_90d"] <= 0.30
    assert 0.30 <= rate["next_line_365d"] <= 0.60
    assert 0.15 <= rate["response_180d"] <= 0.40
    for site in catalog.SITES:
        assert 0.04 <= rate[f"progression_{site.lower()}_180d"] <= 0.30, site


# ---- the spec, the registry, the engine


def test_the_spec_knows_every_agent_operation_and_indication(cohort):
    nodes = cohort.spec.decision_nodes
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


def test_shares_of_indications_and_stages_add_up():
    assert math.isclose(sum(catalog.WEIGHTS), 1.0)
    assert all(math.isclose(sum(i.stages), 1.0) for i in catalog.INDICATIONS)


def test_the_registry_is_light_and_runs_the_simulator(tmp_path):
    code = (
        "import sys, ehr_assets.cohorts.synthetic.registry as r; assert 'oncology' in r.SIMULATORS; "
        "assert not {'numpy', 'pyarrow', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    calls: list[tuple[str, int, int]] = []
    progress = lambda phase, done, total: calls.append((phase, done, total))  # noqa: E731
    counts = Simulated.run("oncology", tmp_path, 3, progress=progress).counts
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
