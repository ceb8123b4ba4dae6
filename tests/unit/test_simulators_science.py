"""The pulmonary embolism and intensive care cohorts: what is known when, and the science they must carry."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from simulators_support import SUBJECTS, Simulated, linear_r2, stamp

from ehr_assets.cohorts.synthetic import icu_catalog, oncology_catalog, oncology_views, pe_catalog
from ehr_assets.cohorts.synthetic.pe_subjects import draw_course, draw_profile
from ehr_assets.cohorts.synthetic.pe_views import Scan
from ehr_assets.cohorts.synthetic.registry import simulator
from ehr_assets.cohorts.synthetic.tables import concept_ids
from ehr_assets.cohorts.synthetic.views import filed

# ---- what is known when


def rows_of(world: Simulated, table: str) -> Iterator[tuple[str, datetime, str, dict[str, str]]]:
    """Subject, time, key and row of every row that was not spoiled; of a date alone, the end of that day."""
    keys = {str(i): key for key, i in concept_ids(simulator(world.name).concepts()).items()}
    time, concept = {
        "condition_occurrence": ("condition_start_date", "condition_source_concept_id"),
        "drug_exposure": ("drug_exposure_start_datetime", "drug_concept_id"),
        "measurement": ("measurement_datetime", "measurement_concept_id"),
        "note": ("note_datetime", "note_class_concept_id"),
        "observation": ("observation_datetime", "observation_concept_id"),
    }[table]
    for row in world.rows(table):
        if at := stamp(row[time]):
            end = timedelta(hours=23, minutes=59, seconds=59) if len(row[time]) == 10 else timedelta(0)
            yield row["person_id"], at + end, keys[row[concept]], row


def first(rows: Iterator[tuple[str, datetime]]) -> dict[str, datetime]:
    """The earliest time of each subject."""
    found: dict[str, datetime] = {}
    for who, at in rows:
        found[who] = min(at, found.get(who, at))
    return found


@pytest.mark.parametrize(
    ("study", "acts", "least"),
    [
        ("ECHO/RVSP", {"ICD10CM/I27.24", "ICD10CM/I27.20", pe_catalog.DRUG_KEY["riociguat"]}, 12),
        ("NOTE/CTPA", {pe_catalog.EMBOLISM, pe_catalog.EMBOLISM_WITH_STRAIN, "ICD10CM/R07.9"}, 400),
        ("NOTE/CTPA", {pe_catalog.DRUG_KEY[d] for d in ("heparin", "alteplase", "apixaban")}, 500),
    ],
)
def test_an_embolism_is_acted_upon_when_the_study_that_shows_it_was_filed(worlds, study, acts, least):
    world = worlds["pe"]
    table = "note" if study == "NOTE/CTPA" else "measurement"
    known = first(
        (who, datetime.fromisoformat(row["filed_datetime"]))
        for who, _, key, row in rows_of(world, table)
        if key == study and (table == "note" or _above(row, pe_catalog.PULMONARY_HYPERTENSION_RVSP))
    )
    done = [
        (who, at)
        for table in ("condition_occurrence", "drug_exposure")
        for who, at, key, _ in rows_of(world, table)
        if key in acts
    ]
    assert len(done) >= least
    too_early = [who for who, at in done if who in known and at < known[who]]
    assert not too_early
    # What was spoiled (0.2 % of the rows) tells of neither.
    assert sum(who not in known for who, _ in done) <= 0.02 * len(done)


def _above(row: dict[str, str], bound: float) -> bool:
    try:
        return float(row["value_as_number"]) > bound
    except ValueError:
        return False


def test_a_metastasis_is_coded_after_the_report_that_names_its_site(tmp_path, monkeypatch):
    """Of those who had none when they fell ill; reports take six weeks here, so that it shows."""

    def slow(at, rng, *, hours, late, late_days):
        usual = filed(at, rng, hours=hours, late=late, late_days=late_days)
        return usual + timedelta(weeks=6) if hours == 30 else usual

    monkeypatch.setattr(oncology_views, "filed", slow)
    world = Simulated.run("oncology", tmp_path, 80)
    known = {who for who, _, key, _ in rows_of(world, "observation") if key == "ONC/STAGE/IV"}
    named: dict[tuple[str, str], datetime] = {}
    for who, _, _, row in rows_of(world, "note"):
        when = datetime.fromisoformat(row["filed_datetime"])
        for site, code in oncology_catalog.METASTASIS.items():
            if site.replace("_", " ").lower() in row["note_text"]:
                named[who, code] = min(when, named.get((who, code), when))
    coded = [
        (at, named[who, key])
        for who, at, key, _ in rows_of(world, "condition_occurrence")
        if key in oncology_catalog.METASTASIS.values() and who not in known and (who, key) in named
    ]
    assert len(coded) > 20
    assert all(at >= when for at, when in coded)


def test_a_radiologist_reads_no_part_of_the_state_without_error():
    rng = np.random.default_rng(1)
    course = draw_course(draw_profile(1, 1, rng), rng)
    course.strike(1.3, 0.0)
    course.offsets, course.resistance = [0.0, 0.0], 0.5
    scans = [Scan.of(course, rng) for _ in range(300)]
    for part in ("clot", "central", "peripheral", "organization"):
        assert 0.08 < np.std([getattr(scan, part) for scan in scans]) < 0.16, part
    assert len({f"{scan.strain:.1f}" for scan in scans}) > 1
    webs = np.mean(["webs" in scan.report() for scan in scans])
    assert 0.3 < webs < 0.7, "at the boundary it is a toss-up"


@pytest.mark.parametrize("name", ["oncology", "pe", "icu"])
def test_no_number_in_the_tables_is_a_latent_state(worlds, name):
    """By code: how many values are, as tables write them, equal to a part of the state at that time."""
    world = worlds[name]
    state = [c for c in world.truth.columns if c.startswith("z_")]
    state = [c for c in state if world.truth[c].n_unique() > 100 and c != "z_norepinephrine"]
    assert len(state) >= 7
    rows = [
        (int(who), at, f"{table} {key}", row["quantity" if table == "drug_exposure" else "value_as_number"])
        for table in ("measurement", "observation", "drug_exposure")
        if table in simulator(name).tables
        for who, at, key, row in rows_of(world, table)
    ]
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "key": pl.String, "value": pl.String}
    values = pl.DataFrame(rows, schema, orient="row").filter(pl.col("value").is_in(["", "0"]).not_())
    beside = values.sort("time").join_asof(
        world.truth.sort("time"), on="time", by="subject_id", check_sortedness=False
    )
    told = beside.select(pl.col(state).map_elements(lambda x: f"{x:.4g}", pl.String))
    equal = np.column_stack([(beside["value"] == told[c]).fill_null(False).to_numpy() for c in state])
    shares = (
        beside.select("key", equal=equal.any(axis=1))
        .group_by("key")
        .agg(pl.len(), pl.col("equal").mean())
        .filter(pl.col("len") >= 30)
    )
    assert shares.height >= 8
    assert shares["equal"].max() < 0.05, shares.sort("equal").tail(3)


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
