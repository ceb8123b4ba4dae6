"""The report page: complete, self-contained, repeatable, and without a subject's id or a date."""

import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from probes_support import TASKS, make_cohort
from reports_support import add_audit, add_flow, add_risks, add_velocity, make_comparison

from ehr_assets.errors import SpecError
from ehr_assets.leakage.findings import Finding
from ehr_assets.probes.baselines import baseline_metrics
from ehr_assets.probes.frames import CohortDirs
from ehr_assets.probes.oracle import oracle_metrics
from ehr_assets.probes.probe import probe_recipe
from ehr_assets.probes.spec import BaselineSpec, ProbeSpec
from ehr_assets.reports.figures import WIDTH, smoothed, training_curves
from ehr_assets.reports.inputs import CohortInputs, Inputs, RecipeInputs, RunInputs
from ehr_assets.reports.methods import Method
from ehr_assets.reports.page import paper_tables, write_report
from ehr_assets.reports.paper_tables import group_means
from ehr_assets.reports.sections.calibration import reliability_figure
from ehr_assets.reports.spec import SPECS, ReportSpec, load_report
from ehr_assets.reports.timelines import pick_timelines
from ehr_assets.reports.verdict import write_verdict

SPEC = ReportSpec(
    name="r",
    title="A <made-up> cohort",
    recipes=("demo",),
    cohorts=("made_up",),
    labels={"demo": "Demo (M)"},
    by_horizon=("made_up",),
    figure4="lung",
)
ASSETS = [
    *(f"made_up/{name}" for name in ("meds_events", "decision_nodes", "task_labels", "subject_splits")),
    *(f"made_up/{name}" for name in ("baseline_metrics", "oracle_metrics", "leak_audit")),
    *(f"demo/{name}" for name in ("checkpoint", "probe_metrics", "node_embeddings", "leak_audit")),
    *("r/comparison", "r/verdict"),
]
LINEAGE = [{"asset": a, "data version": f"{i:016x}"[::-1]} for i, a in enumerate(ASSETS, start=0xABC)]
VERSIONS = {row["asset"]: row["data version"] for row in LINEAGE}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_cohort(tmp_path_factory.mktemp("cohort"), subjects=260)
    dirs = CohortDirs(root / "decision_nodes", root / "task_labels", root / "subject_splits")
    for name in ("probe", "baseline", "oracle", "checkpoint", "verdict"):
        (root / name).mkdir()
    probe_recipe("demo", root / "node_embeddings", {"made_up": dirs}, root / "probe", ProbeSpec(bootstrap=20))
    baseline_metrics("made_up", root / "meds_events", dirs, root / "baseline", BaselineSpec(bootstrap=20))
    oracle_metrics("made_up", root / "latent_truth", dirs, root / "oracle", BaselineSpec(bootstrap=20))
    rows = [{"step": s, "phase": "sft", "loss": 5 / s, "lr": 1e-3} for s in range(1, 30)]
    rows.append({"step": 29, "phase": "sft", "tuning_loss": 0.4})
    (root / "checkpoint/history.jsonl").write_text("\n".join(map(json.dumps, rows)))
    add_flow(root / "decision_nodes")
    add_velocity(root / "oracle", root)
    add_risks(root / "probe", root, "made_up", "death_365d", "demo")
    found = Finding("single_feature", "made_up", "warn", "LAB//x", 0.985, 0.98, 50, "to look at")
    audits = {
        "made_up": add_audit(root / "audit_c", "made_up", found),
        "demo": add_audit(root / "audit_r", "demo"),
    }
    comparison = make_comparison(root / "comparison", [root / n for n in ("probe", "baseline", "oracle")])
    write_verdict(SPEC, comparison, audits, VERSIONS, None, root / "verdict", embedded=["made_up"])
    return root


def _inputs(root, oracle=True, compared=True):
    """compared: with all that is made from the probes' scores, and beside them."""
    given = (lambda name: root / name) if compared else (lambda name: None)
    cohort = CohortInputs(
        name="made_up",
        title="Made up",
        meds=root / "meds_events",
        nodes=root / "decision_nodes",
        labels=root / "task_labels",
        splits=root / "subject_splits",
        baseline=root / "baseline",
        oracle=root / "oracle" if oracle else None,
        audit=given("audit_c"),
    )
    settings = {"seed": 1, "phases": [{"name": "sft", "epochs": 2}], "optimizer": {"lr": 0.001}}
    run = RunInputs(root / "checkpoint", root / "probe", given("node_embeddings"), given("audit_r"))
    recipe = RecipeInputs("demo", "Demo", settings, [run])
    return Inputs(SPEC, [cohort], [recipe], VERSIONS, given("comparison"), given("verdict"))


def _write(root, out, overrides=(), **kwargs):
    out.mkdir()
    stats = write_report(_inputs(root, **kwargs), LINEAGE, out, overrides=overrides)
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
    assert stats["tasks"] == 4
    assert stats["tasks_scored"] == 3
    assert html.count("<figure") == stats["figures"] == 12
    for text in (
        "A &lt;made-up&gt; cohort",
        "Death of any cause",
        "optimizer.lr",
        "phases 1.epochs",
        "Table 2.",
        "Table 3.",
        "Table 5.",
        "Kaplan-Meier",
        "After death",
        "Single feature",
        "Differences of means",
        "Subgroups",
        "velocity",
        "Demo (M) may",
    ):
        assert text in html, text
    assert "{{" not in html
    assert "Never comes" in html  # the task without positives is listed too
    assert "not shown" not in html.replace("not shown. No task has an oracle", "")


def test_every_number_says_which_dataset_it_came_from(page):
    html = page[0]
    blocks = re.findall(r"<(?:table|figure|dl|ol)\b[^>]*>", html)
    assert len(blocks) > 20
    cited = set()
    for block in blocks:
        if 'class="settings"' in block or 'data-from="manifests"' in block:
            continue
        sources = re.search(r'data-from="([^"]+)"', block)
        assert sources, block
        cited |= set(sources[1].split())
    assert cited <= {f"{asset}@{version[:8]}" for asset, version in VERSIONS.items()}
    assert {c.split("@")[0] for c in cited} >= set(ASSETS) - {"made_up/baseline_metrics"}


def test_page_fetches_nothing(page):
    html = page[0]
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(?!["']?#)(?!["']?data:)\S""", html)
    assert not re.search(r"url\(\s*(?!#)\S|@import|<script|<link|<iframe", html)


def test_page_names_no_subject_and_no_date(root, page):
    html = re.sub(r'"data:image/png;base64,[^"]*"', "", page[0])
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


def test_the_paper_tables_are_there_in_markdown(root, tmp_path):
    _write(root, tmp_path / "out")
    tables = paper_tables(tmp_path / "out")
    assert [title.split(".")[0] for title in tables] == ["Table 5", "Table 3", "Table 2"]
    for text in tables.values():
        assert "| *Baselines* |" in text
        assert "r/comparison@" in text
        assert "**" in text


def test_what_has_not_been_made_is_named_and_the_rest_stands(root, tmp_path):
    html, stats = _write(root, tmp_path / "out", compared=False)
    assert stats["tasks_scored"] == 3
    for text in (
        "Verdict: not shown",
        "Paired differences: not shown",
        "Not made: made_up/leak_audit, demo/leak_audit.",
    ):
        assert text in html
    assert "Embedding map: not shown. demo/node_embeddings was not given" in html
    assert "probe_metrics@" in html
    assert "r/comparison@" not in html


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
    html, stats = _write(tmp_path, tmp_path / "out", oracle=False, compared=False)
    assert stats["tasks_scored"] == 0
    assert "No task could be scored" in html
    assert "nan" not in html.lower().replace("resonance", "")
    told = html[: html.index("<h2>Lineage")]
    assert "racle" not in re.sub(r"<style>.*?</style>", "", told, flags=re.S)


def test_a_cohort_without_nodes_has_a_page_that_says_so(root, tmp_path):
    """Every table is there and none has a row: nothing crashes, nothing is made up."""
    for path in root.rglob("*.parquet"):
        kept = "subject_splits" in path.parts or "meds_events" in path.parts
        target = tmp_path / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(path)
        pq.write_table(table if kept else table.slice(0, 0), target)
    (tmp_path / "task_labels/tasks.json").write_text((root / "task_labels/tasks.json").read_text())
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "verdict").mkdir()
    audits = {"made_up": tmp_path / "audit_c"}
    stats = write_verdict(
        SPEC, tmp_path / "comparison", audits, VERSIONS, None, tmp_path / "verdict", embedded=["made_up"]
    )
    assert stats["may_be_promoted"] is False
    html, stats = _write(tmp_path, tmp_path / "out")
    assert stats["tasks_scored"] == 0
    for text in (
        "No task could be scored",
        "Demo (M) may not be promoted",
        "Means by indication and category: not shown",
        "Paired differences: not shown",
        "Kaplan-Meier curves: not shown",
        "Embedding map: not shown",
        "asked at no node",
    ):
        assert text in html, text
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S).lower()


def test_few_who_were_left_out_cannot_be_found_by_subtracting(page):
    flow = re.findall(r"<ol.*?</ol>", page[0], flags=re.S)[0]
    assert "alive" in flow.lower()
    for exact in ("336", "340", "335"):  # four nodes were taken by death
        assert f"{exact} nodes" not in flow or f"about {exact} nodes" in flow
    assert "about 90 subjects" in flow
    assert "&lt;11 subjects, &lt;11 nodes" in flow


def test_indications_of_few_people_are_not_compared(root, tmp_path):
    metrics = pl.read_parquet(root / "comparison/metrics.parquet")
    few = pl.when(pl.col("indication") == "lung").then(10).otherwise(pl.col("n_subjects"))
    (tmp_path / "comparison").mkdir()
    for path in (root / "comparison").iterdir():
        (tmp_path / "comparison" / path.name).symlink_to(path)
    (tmp_path / "comparison/metrics.parquet").unlink()
    metrics.with_columns(n_subjects=few.cast(pl.Int64)).write_parquet(tmp_path / "comparison/metrics.parquet")
    made = _inputs(root)
    groups = set(group_means(made, made.cohorts[0], "indication")["group"])
    assert "lung" in groups
    fewer = replace(made, comparison=tmp_path / "comparison", _read={})
    assert set(group_means(fewer, fewer.cohorts[0], "indication")["group"]) == groups - {"lung"}


def test_no_single_record_of_people_who_exist_is_drawn(root, tmp_path):
    html, _ = _write(root, tmp_path / "out", oracle=False)
    assert "Three records and their decision nodes: not shown" in html
    assert "Three held-out records" not in html


def test_timelines_are_held_out_and_relative(root):
    found = pick_timelines(root / "meds_events", root / "decision_nodes", root / "subject_splits")
    assert [t.letter for t in found] == ["A", "B", "C"]
    for timeline in found:
        assert min(d.min() for d in timeline.events.values() if len(d)) == 0
        assert all(at > 0 for at, _ in timeline.nodes)
        assert sum(map(len, timeline.events.values())) == timeline.n_events
    assert found[0].n_events < found[1].n_events < found[2].n_events


def test_smoothing():
    np.testing.assert_allclose(smoothed(np.full(90, 3.0)), 3.0)
    assert len(smoothed(np.arange(3.0))) == 3


@pytest.mark.filterwarnings("error")  # matplotlib's, that a legend left no room for the axes
def test_eighteen_trainings_fit_into_a_figure(root):
    """Six recipes of three seeds; a legend of every run and its tuning once covered the curves."""
    runs = {f"Recipe {i}, with a name (M+I)": [root / "checkpoint"] * 3 for i in range(6)}
    drawn = training_curves(runs)
    assert drawn is not None
    assert drawn == training_curves(runs)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert box
    assert float(box[1]) == 72 * WIDTH
    assert training_curves({"untrained": [root]}) is None


@pytest.fixture
def outside(monkeypatch):
    """Figures that stick out of their frame, where the page cuts them off."""
    save, found = Figure.savefig, []

    def measured(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        if min(box.x0, box.y0, width - box.x1, height - box.y1) < -0.02:
            found.append((figure.axes[0].get_title(loc="left"), box))

    monkeypatch.setattr(Figure, "savefig", measured)
    return found


def test_nothing_is_drawn_outside_its_figure(root, tmp_path, outside):
    _write(root, tmp_path / "out")
    assert not outside


@pytest.mark.parametrize("categories", range(1, 6))
def test_calibration_has_room_for_its_words(categories, outside):
    keys = ["a/logistic", "b/logistic"]
    bins = [
        {"category": f"Category {c}", "key": key, "predicted": x / (12 * c), "observed": x / (11 * c)}
        for c in range(1, categories + 1)
        for key in keys
        for x in range(10)
    ]
    assert reliability_figure(pl.DataFrame(bins), [Method(key, key, "recipe", "") for key in keys])
    assert not outside


def test_shipped_specs_load_and_mistakes_are_named(tmp_path):
    for file in sorted(SPECS.glob("*.yaml")):
        assert load_report(file).name == file.stem
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ntitle: Bad\nrecipes: [a]\ncohort: [b]\n")
    with pytest.raises(SpecError, match=r"cohort: unknown key. Did you mean 'cohorts'"):
        load_report(bad)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("promotion: {candidate: lung}", "promotion.candidate: 'lung' is no recipe of this report"),
        ("pairs: [[smb, snb]]", "pairs: 'snb' is no recipe of this report. Did you mean 'smb'"),
        ("pairs: [[smb, smb]]", "a recipe does not differ from itself"),
        ("labels: {sft: SFT}", "labels: 'sft' is no recipe"),
        ("by_horizon: [pe]", "by_horizon: 'pe' is no cohort"),
    ],
)
def test_a_spec_names_only_what_it_lists(tmp_path, more, said):
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: bad\ntitle: Bad\nrecipes: [smb]\ncohorts: [b]\n{more}\n")
    with pytest.raises(SpecError, match=re.escape(said)):
        load_report(path)
