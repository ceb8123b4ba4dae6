"""The parts of a page on their own: tables as structures, thirds of risk, the map, what is too small to
show.
"""

import re
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test

from ehr_assets.nodes.frames import REASONS
from ehr_assets.reports.blocks import EMPTY, Cell, Figure, Group, Head, Row, Table, markdown
from ehr_assets.reports.figures import _prevalence
from ehr_assets.reports.inputs import Inputs, RecipeInputs, RunInputs
from ehr_assets.reports.methods import methods_of
from ehr_assets.reports.paper_tables import grouped, ranks
from ehr_assets.reports.sections.calibration import pooled
from ehr_assets.reports.sections.embedding import MOST, project
from ehr_assets.reports.sections.results import _of_outcome, _why
from ehr_assets.reports.sections.subgroups import _cells
from ehr_assets.reports.sections.survival import panel_of
from ehr_assets.reports.small_cells import FEWEST, masked
from ehr_assets.reports.spec import ReportSpec
from ehr_assets.reports.tables import KNOWN, TaskRow, _label_counts


def test_a_table_or_figure_without_sources_cannot_be_built():
    with pytest.raises(ValueError, match="does not say what it was made from"):
        Figure("<svg/>", "t", "c", [])
    with pytest.raises(ValueError, match="not as wide as its head"):
        Table("t", "", [Head("a"), Head("b")], [Group(None, [Row("r", [Cell("1")])])], ["x@1"])


def test_markdown_says_what_the_page_says():
    rows = [Row("SFT | (M)", [Cell("0.751", "± 0.021", "best"), Cell("0.6", look="second"), Cell("0.5")])]
    heads = [
        Head("30 day", "n 9", "Mortality"),
        Head("180 day", above="Mortality"),
        Head("365 day", above="PH"),
    ]
    table = Table("Table 5. X", "Methods", heads, [Group("Baselines", rows)], ["r/comparison@01"], "A note.")
    assert table.spans == [("Mortality", 2), ("PH", 1)]
    assert markdown(table).splitlines() == [
        "| Methods | Mortality 30 day (n 9) | Mortality 180 day | PH 365 day |",
        "|---|---|---|---|",
        "| *Baselines* | | | |",
        "| SFT \\| (M) | **0.751 ± 0.021** | <u>0.6</u> | 0.5 |",
        "",
        "A note. From `r/comparison@01`.",
    ]


def test_best_and_second_are_what_is_printed():
    assert ranks(
        {"a": (0.70004, None), "b": (0.70001, 0.1), "c": (0.69, None), "d": (0.5, None), "e": None}
    ) == {
        "a": "best",
        "b": "best",
        "c": "second",
    }
    assert ranks({"a": (0.7, None)}) == {}
    assert ranks({}) == {}


def inputs(tmp_path, **spec):
    data = {
        "name": "r",
        "title": "R",
        "recipes": ["sft", "jepa"],
        "cohorts": ["c"],
        "labels": {"sft": "SFT (M)"},
    }
    backbone = {"kind": "config", "architecture": "qwen3", "hidden_size": 8, "num_hidden_layers": 2}
    other = {"kind": "pretrained", "path": "/somewhere/Qwen3-8B/"}
    recipes = [
        RecipeInputs("sft", "SFT", {"backbone": backbone}, [RunInputs(tmp_path, tmp_path)]),
        RecipeInputs("jepa", "JEPA", {"backbone": other}, [RunInputs(tmp_path, tmp_path, partition="seed1")]),
    ]
    return Inputs(
        ReportSpec.model_validate({**data, **spec}), [], recipes, {"jepa/checkpoint[seed1]": "abcdef0123"}
    )


def test_methods_stand_as_in_the_paper_and_the_oracle_is_never_best(tmp_path):
    keys = [
        "oracle",
        "jepa",
        "untrained/logistic",
        "sft",
        "baseline/xgboost",
        "baseline/bag_of_codes",
        "baseline/logistic",
    ]
    methods = methods_of(inputs(tmp_path), keys)
    assert [(m.group, m.label) for m in methods] == [
        ("Baselines", "Logistic regression"),
        ("Baselines", "XGBoost"),
        ("Controls", "Bag of codes"),
        ("Controls", "Untrained encoder"),
        ("Qwen3, 2 × 8, from random weights", "SFT (M)"),
        ("Qwen3-8B", "jepa"),
        ("Ceiling", "Oracle ceiling"),
    ]
    groups = grouped(methods, [{"oracle": (0.9, None), "sft": (0.8, 0.1), "jepa": (0.7, None)}])
    looks = {row.title: row.cells[0].look for group in groups for row in group.rows}
    assert (looks["SFT (M)"], looks["jepa"], looks["Oracle ceiling"]) == ("best", "second", "")
    assert looks["XGBoost"] == "none"


def test_every_seed_of_a_recipe_is_a_source(tmp_path):
    made = inputs(tmp_path)
    assert made.sources(*made.recipes[1].assets("checkpoint")) == ["jepa/checkpoint[seed1]@abcdef01"]


def test_scores_of_several_seeds_are_their_mean_unless_the_comparison_has_it(tmp_path):
    row = {
        "recipe": "sft",
        "cohort": "c",
        "task": "death",
        "category": "x",
        "indication": None,
        "horizon_days": 30,
    }
    row |= {"probe": "logistic", "metric": "auroc", "ci_low": 0.5, "ci_high": 0.9, "n": 10, "n_positive": 4}
    row |= {"n_subjects": 5, "split": "held_out", "subgroup": None}
    rows = [{**row, "seed": 1, "value": 0.6}, {**row, "seed": 2, "value": 0.8}]
    rows += [{**row, "task": "stay", "seed": s, "value": v} for s, v in ((1, 0.6), (2, 0.8), (None, 0.71))]
    rows += [
        {**row, "subgroup": "female", "seed": 1, "value": 0.1},
        {**row, "cohort": "d", "seed": 1, "value": 0.1},
    ]
    pl.DataFrame(rows, infer_schema_length=None, schema_overrides={"indication": pl.String}).write_parquet(
        tmp_path / "metrics.parquet"
    )
    made = inputs(tmp_path)
    cohort = type("C", (), {"name": "c"})
    compared = Inputs(made.spec, [], made.recipes, {}, tmp_path).scores(cohort)  # pyright: ignore[reportArgumentType]
    found = {r["task"]: (round(r["value"], 6), r["ci_low"]) for r in compared.iter_rows(named=True)}
    assert found == {"death": (0.7, None), "stay": (0.71, 0.5)}


def risks(rng, n=400):
    """Two nodes each; what decides is the risk at the first."""
    subject = np.repeat(np.arange(n), 2)
    risk = rng.normal(size=2 * n)
    days = rng.exponential(300 * np.exp(-risk))
    return pl.DataFrame(
        {
            "subject_id": subject,
            "prediction_time": [datetime(2020, 1, 1 + k % 2) for k in range(2 * n)],
            "node_id": [f"n{k:04}" for k in range(2 * n)],
            "split": np.where(subject % 2 == 0, "tuning", "held_out"),
            "risk": risk.astype(np.float32),
            "duration_days": np.minimum(days, 365),
            "status": (days < 365).astype(np.int8),
        }
    )


def test_thirds_are_cut_on_tuning_and_drawn_on_held_out_subjects_once_each():
    table = risks(np.random.default_rng(0))
    panel = panel_of("Death", table, 365)
    first = table.unique("subject_id", keep="first", maintain_order=True)
    cuts = np.quantile(first.filter(pl.col("split") == "tuning")["risk"], [1 / 3, 2 / 3])
    mine = first.filter(pl.col("split") == "held_out")
    third = np.searchsorted(cuts, mine["risk"].to_numpy(), side="right")
    assert panel is not None
    assert [c.n for c in panel.curves] == [(third == k).sum() for k in range(3)]
    assert sum(c.n for c in panel.curves) == 200
    for k, curve in enumerate(panel.curves):
        days, event = mine["duration_days"].to_numpy()[third == k], mine["status"].to_numpy()[third == k] == 1
        fitted = KaplanMeierFitter().fit(days, event).survival_function_["KM_estimate"]
        np.testing.assert_allclose(curve.survival, fitted.to_numpy()[: len(curve.survival)])
        assert curve.at_risk[0] == curve.n
        at_end = (days >= curve.days[-1]).sum()
        assert at_end >= FEWEST
    whole = multivariate_logrank_test(mine["duration_days"], third, mine["status"] == 1)
    assert panel.p == pytest.approx(whole.p_value)
    assert float(panel.p or 1) < 0.001


def test_held_out_risks_move_no_cut():
    table = risks(np.random.default_rng(1))
    higher = pl.when(pl.col("split") == "held_out").then(pl.col("risk") + 9).otherwise(pl.col("risk"))
    assert (
        panel_of("Death", table.with_columns(risk=higher.cast(pl.Float32)), 365) is None
    )  # all are in one third
    unknown = table.filter(pl.col("split") == "held_out")
    assert panel_of("Death", unknown, 365) is None  # nothing to cut on


def test_a_curve_of_few_people_is_not_drawn():
    table = risks(np.random.default_rng(2), n=2 * FEWEST)
    panel = panel_of("Death", table, 365)
    assert panel is None or all(c.n >= FEWEST for c in panel.curves)
    assert [masked(n) for n in (0, 1, FEWEST - 1, FEWEST, 1200)] == [
        "0",
        "<11",
        "<11",
        "11",
        "1\N{NO-BREAK SPACE}200",
    ]


def labelled(kind, **counts):
    """A task's row, of which nothing but the labels is known."""
    return TaskRow("c", "t", kind, "x", "T", 30, 0, 0, {}, {**dict.fromkeys((*KNOWN, *REASONS), 0), **counts})


def test_labels_are_counted_by_what_they_answer():
    """A value is no outcome, a follow-up that ends with a competing death is one of its own kind."""
    empty = dict.fromkeys(("boolean_value", "numeric_value", "reason"))
    rows = [
        *({**empty, "boolean_value": True}, {**empty, "boolean_value": False}),
        *({**empty, "numeric_value": 1.5}, {**empty, "numeric_value": 0.0}),
        *({**empty, "reason": "censored"}, {**empty, "reason": "not_measured"}),
    ]
    schema = {"boolean_value": pl.Boolean, "numeric_value": pl.Float64, "reason": pl.String}
    found = _label_counts(pl.DataFrame(rows, schema=schema))
    assert {k: n for k, n in found.items() if n} == {
        "positive": 1,
        "negative": 1,
        "measured": 2,
        "censored": 1,
        "not_measured": 1,
    }


def test_what_was_not_scored_says_why():
    assert _why(labelled("binary", positive=9)) == "the outcome follows every node"
    assert _why(labelled("binary", negative=9)) == "the outcome never follows a node"
    assert _why(labelled("regression", measured=9)) == "too few values in a split"
    assert _why(labelled("regression", not_measured=9)) == "no node is evaluable"
    assert _why(labelled("binary")) == "asked at no node"


def test_small_counts_of_outcomes_are_not_printed_nor_their_share():
    assert [_prevalence(labelled("binary", positive=p, negative=90)) for p in (0, 10, 11)] == [
        *("0%", "few", "11%")
    ]
    assert _prevalence(labelled("regression", measured=90)) == "a value"
    assert _of_outcome(labelled("binary"), 10) == Cell("<11")
    assert _of_outcome(labelled("regression"), 0) == EMPTY


def test_table_and_figure_of_subgroups_leave_out_the_same_tasks():
    """A task that few of the group were asked at is drawn nowhere, so its gap is not in the table either."""
    rows = [("a", 30, 0.7, -0.1), ("b", 12, 0.8, 0.1), ("c", 10, 0.2, -0.6)]
    found = pl.DataFrame(rows, ["task", "n_subjects", "value", "gap"], orient="row")
    found = found.with_columns(gap_low=pl.col("gap") - 0.05, gap_high=pl.col("gap") + 0.05)
    cells = [cell.text for cell in _cells(found, {"a": "A"})]
    assert cells == ["30", "2", "0.750", "+0.000", "1", "\N{MINUS SIGN}0.100, A"]


def test_reliability_is_averaged_over_tasks_by_their_nodes():
    bins = pl.DataFrame(
        {
            "category": ["x", "x", None],
            "key": ["a", "a", "a"],
            "task": ["t", "u", "v"],
            "bin": [0, 0, 0],
            "predicted": [0.1, 0.4, 0.9],
            "observed": [0.0, 0.4, 0.9],
            "n": [30, 10, 5],
        }
    )
    (row,) = pooled(bins).to_dicts()
    assert row == {
        "category": "x",
        "key": "a",
        "bin": 0,
        "predicted": pytest.approx(0.175),
        "observed": 0.1,
        "n": 40,
    }


@pytest.fixture
def embedded(tmp_path):
    """300 nodes on a line in 5 dimensions; held-out nodes lie far from it."""
    rng = np.random.default_rng(0)
    subject = np.arange(300)
    split = np.where(subject < 200, "train", "held_out")
    line = rng.normal(size=(300, 1)) * np.array([[3, 0, 0, 0, 0]]) + rng.normal(0, 0.1, (300, 5))
    line[split == "held_out"] += np.array([0, 0, 500, 0, 0]) * rng.normal(size=(100, 1))
    nodes = pl.DataFrame({"node_id": [f"n{i:03}" for i in range(300)], "subject_id": subject})

    def write(vectors):
        flat = pa.array(vectors.astype(np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, 5)
        table = pl.DataFrame(
            {"node_id": nodes["node_id"], "cohort": ["c"] * 300, "embedding": pl.from_arrow(column)}
        )
        table.write_parquet(tmp_path / "embeddings.parquet")

    pl.DataFrame({"subject_id": subject, "split": split}).write_parquet(tmp_path / "subject_splits.parquet")
    results = type("R", (), {"cohort": type("C", (), {"name": "c", "splits": tmp_path})})
    return line, write, lambda: project(tmp_path, results, nodes)  # pyright: ignore[reportArgumentType]


def test_the_map_is_fitted_on_train_and_shows_held_out(embedded):
    line, write, found = embedded
    write(line)
    shown = found()
    assert len(shown.node_id) == 100
    assert MOST == 2_000
    assert {int(re.sub(r"\D", "", node)) for node in shown.node_id} == set(range(200, 300))
    # The third dimension varies most in held-out nodes and hardly in train: no axis follows it.
    assert shown.share[0] > 0.95
    at = [int(node[1:]) for node in shown.node_id]
    assert abs(np.corrcoef(shown.xy[:, 0], line[at, 0])[0, 1]) > 0.9
    np.testing.assert_array_equal(found().xy, shown.xy)


def test_embeddings_that_are_constant_or_not_finite_make_no_map(embedded):
    line, write, found = embedded
    write(np.ones_like(line))
    assert found() is None
    write(np.full_like(line, np.nan))
    assert found() is None
