"""The report page: complete, self-contained, repeatable, and without a subject's id or a date."""

import json
import re

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from probes_support import TASKS, make_cohort

from ehr_assets.errors import SpecError
from ehr_assets.probes.baselines import baseline_metrics
from ehr_assets.probes.frames import CohortDirs
from ehr_assets.probes.oracle import oracle_metrics
from ehr_assets.probes.probe import probe_recipe
from ehr_assets.probes.spec import BaselineSpec, ProbeSpec
from ehr_assets.reports.figures import reliability, smoothed
from ehr_assets.reports.page import write_report
from ehr_assets.reports.spec import SPECS, ReportSpec, load_report
from ehr_assets.reports.tables import CohortInputs, RecipeInputs, means_by, methods_of, task_rows
from ehr_assets.reports.timelines import pick_timelines

SPEC = ReportSpec(name="r", title="A <made-up> cohort", recipes=("demo",), cohorts=("made_up",))
LINEAGE = [{"asset": "made_up/meds_events", "data version": "0123abcd"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_cohort(tmp_path_factory.mktemp("cohort"), subjects=90)
    dirs = CohortDirs(root / "decision_nodes", root / "task_labels", root / "subject_splits")
    for name in ("probe", "baseline", "oracle", "checkpoint"):
        (root / name).mkdir()
    probe_recipe("demo", root / "node_embeddings", {"made_up": dirs}, root / "probe", ProbeSpec(bootstrap=20))
    baseline_metrics("made_up", root / "meds_events", dirs, root / "baseline", BaselineSpec(bootstrap=20))
    oracle_metrics("made_up", root / "latent_truth", dirs, root / "oracle", BaselineSpec(bootstrap=20))
    rows = [{"step": s, "phase": "sft", "loss": 5 / s, "lr": 1e-3} for s in range(1, 30)]
    rows.append({"step": 29, "phase": "sft", "tuning_loss": 0.4})
    (root / "checkpoint/history.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def _inputs(root, oracle=True):
    cohort = CohortInputs(
        name="made_up",
        title="Made up",
        meds=root / "meds_events",
        nodes=root / "decision_nodes",
        labels=root / "task_labels",
        splits=root / "subject_splits",
        baseline=root / "baseline",
        oracle=root / "oracle" if oracle else None,
    )
    settings = {"seed": 1, "phases": [{"name": "sft", "epochs": 2}], "optimizer": {"lr": 0.001}}
    return [cohort], [RecipeInputs("demo", "Demo", root / "checkpoint", root / "probe", settings)]


def _write(root, out, overrides=(), **kwargs):
    out.mkdir()
    stats = write_report(SPEC, *_inputs(root, **kwargs), LINEAGE, out, overrides=overrides)
    return (out / "report.html").read_text(encoding="utf-8"), stats


@pytest.fixture(scope="module")
def page(root, tmp_path_factory):
    return _write(root, tmp_path_factory.mktemp("page") / "out")


def test_checks_that_were_passed_over_head_the_page(page, root, tmp_path):
    line = "c/meds_events@0123 used although <b>: failed. Reason: trying"
    html, _ = _write(root, tmp_path / "out", overrides=[line])
    assert line.replace("<b>", "&lt;b&gt;") in html[: html.index("<h2")]
    assert "passed over" not in page[0]


def test_page_is_complete(page):
    html, stats = page
    assert stats == {"tasks": 4, "tasks_scored": 3, "figures": 5}
    assert html.count("<figure") == 5
    for text in (
        "A &lt;made-up&gt; cohort",
        "Death of any cause",
        "0123abcd",
        "optimizer.lr",
        "phases 1.epochs",
    ):
        assert text in html
    assert "{{" not in html
    assert "Never comes" in html  # the task without positives is listed too


def test_page_fetches_nothing(page):
    html = page[0]
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(?!["']?#)(?!["']?data:)\S""", html)
    assert not re.search(r"url\(\s*(?!#)\S|@import|<script|<link|<iframe", html)


def test_page_names_no_subject_and_no_date(root, page):
    html = page[0]
    ids = pl.read_parquet(root / "subject_splits/subject_splits.parquet")["subject_id"]
    nodes = pl.read_parquet(root / "decision_nodes/nodes.parquet")["node_id"]
    numbers = set(re.findall(r"\d{8}", re.sub(r"\D", " ", html)))
    assert not numbers & {str(i) for i in ids}
    assert not any(node in html for node in nodes)
    assert not re.search(r"\b(19|20)\d\d-\d\d-\d\d\b", html)
    assert "Subject A" in re.sub(r"<!--(.*?)-->", r"\1", html)  # figure text is outlines, kept as comments


def test_equal_inputs_give_equal_bytes(root, page, tmp_path):
    again, _ = _write(root, tmp_path / "again")
    assert again == page[0]


def test_summary_agrees_with_the_metrics(root, page, tmp_path):
    _write(root, tmp_path / "out")
    rows = json.loads((tmp_path / "out/summary.json").read_text())["rows"]
    assert [r["task"] for r in rows] == [t["name"] for t in TASKS]
    stored = pl.read_parquet(root / "baseline/metrics.parquet").filter(
        pl.col("indication").is_null(), pl.col("metric") == "auroc", pl.col("probe") == "xgboost"
    )
    by_task = dict(zip(stored["task"], stored["value"], strict=True))
    assert {r["task"]: r["baseline"] for r in rows} == by_task
    assert rows[-1]["probe"] is None
    assert rows[-1]["n"] > 0


def test_without_oracle_history_or_scores_the_page_still_stands(root, tmp_path):
    for name in ("probe", "baseline"):
        table = pq.read_table(root / name / "metrics.parquet").to_pandas()
        table[["value", "ci_low", "ci_high"]] = np.nan
        (tmp_path / name).mkdir()
        schema = pq.read_schema(root / name / "metrics.parquet")
        pq.write_table(pl.from_pandas(table).to_arrow().cast(schema), tmp_path / name / "metrics.parquet")
        (tmp_path / name / "predictions.parquet").symlink_to(root / name / "predictions.parquet")
    for name in ("meds_events", "decision_nodes", "task_labels", "subject_splits"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "checkpoint").mkdir()
    html, stats = _write(tmp_path, tmp_path / "out", oracle=False)
    assert stats["tasks_scored"] == 0
    assert "No task could be scored" in html
    assert "nan" not in html.lower().replace("resonance", "")
    assert "racle" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S)


def test_best_is_the_highest_as_printed_and_never_the_oracle(root):
    for row in task_rows(*[x if i else x[0] for i, x in enumerate(_inputs(root))]):
        printed = {
            k: round(s.value, 3) for k, s in row.scores.items() if s.value is not None and k != "oracle"
        }
        assert row.best == {k for k, v in printed.items() if v == max(printed.values())}


def test_means_average_the_tasks_that_all_could_score(root):
    (cohort,), recipes = _inputs(root)
    methods = methods_of(cohort, recipes)
    means = means_by("category", cohort, recipes, methods)
    assert means is not None
    assert means.groups == ["survival", "progression", "toxicity"]
    assert list(means.n_tasks) == [1, 1, 1]  # the toxicity task without positives does not count
    row = next(r for r in task_rows(cohort, recipes) if r.task == "toxicity_90d")
    for method, cells in means.rows:
        assert cells[2] == (row.scores[method.key].value, None)


def test_timelines_are_held_out_and_relative(root):
    found = pick_timelines(root / "meds_events", root / "decision_nodes", root / "subject_splits")
    assert [t.letter for t in found] == ["A", "B", "C"]
    for timeline in found:
        assert min(d.min() for d in timeline.events.values() if len(d)) == 0
        assert all(at > 0 for at, _ in timeline.nodes)
        assert sum(map(len, timeline.events.values())) == timeline.n_events
    assert found[0].n_events < found[1].n_events < found[2].n_events


def test_reliability_and_smoothing():
    predicted = np.repeat([0.1, 0.8], 50)
    outcome = np.r_[np.zeros(45), np.ones(5), np.ones(40), np.zeros(10)]
    x, y = reliability(predicted, outcome, bins=2)
    np.testing.assert_allclose(x, [0.1, 0.8])
    np.testing.assert_allclose(y, [0.1, 0.8])
    np.testing.assert_allclose(smoothed(np.full(90, 3.0)), 3.0)
    assert len(smoothed(np.arange(3.0))) == 3


def test_shipped_specs_load_and_mistakes_are_named(tmp_path):
    for file in sorted(SPECS.glob("*.yaml")):
        assert load_report(file).name == file.stem
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ntitle: Bad\nrecipes: [a]\ncohort: [b]\n")
    with pytest.raises(SpecError, match=r"cohort: unknown key. Did you mean 'cohorts'"):
        load_report(bad)
