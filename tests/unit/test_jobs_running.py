"""`ehr run --grid`: what it makes of points that fail. The runs themselves are the integration tests'."""

from types import SimpleNamespace

import pytest
from dagster import AssetCheckEvaluation, AssetCheckSeverity, AssetKey, DagsterEventType
from rich.console import Console

from ehr_assets.errors import SpecError
from jobs.cli import running

INPUT, TRAINED, SCORED, TABLE = (
    AssetKey(name) for name in (["cohort", "data"], ["g", "checkpoint"], ["g", "scores"], ["g", "ablation"])
)


ORDER = [INPUT, TRAINED, SCORED, TABLE]


@pytest.fixture
def grid(monkeypatch):
    """A grid of three points without anything made; gives what was run, and takes what shall fail."""
    made, failing = [], {}

    def run(console, project, todo, statuses, partition=None):
        made.append((partition, *todo))
        for key in todo:
            if why := failing.get((partition, key)):
                raise running.RunFailedError(f"The run did not finish:\n    {why}", where="Dagster run r1")

    project = SimpleNamespace(
        catalog=SimpleNamespace(grids={"g": SimpleNamespace(recipes=dict.fromkeys("abc"))}),
        graph=SimpleNamespace(
            upstream=lambda keys: ORDER[: max(map(ORDER.index, keys)) + 1],
            partitions={TRAINED: "abc", SCORED: "abc"},
        ),
        instance=None,
        settings=None,
        statuses=lambda thorough: {},
        dataset=lambda statuses, name: SimpleNamespace(path=name),
    )
    monkeypatch.setattr(running, "Project", lambda: project)
    monkeypatch.setattr(running, "close_dead_runs", lambda *_: None)
    monkeypatch.setattr(running, "_not_usable", lambda console, project, keys, point=None: (keys, {}))
    monkeypatch.setattr(running, "_run", run)
    return SimpleNamespace(made=made, failing=failing)


def run_grid(name="g"):
    return running.run_grid(Console(quiet=True), name)


def test_inputs_then_points_then_the_table(grid):
    assert run_grid() == "g/ablation"
    assert grid.made == [(None, INPUT), *((p, TRAINED, SCORED) for p in "abc"), (None, TABLE)]


def test_points_that_fail_stop_no_other_and_are_all_named(grid):
    grid.failing |= {("a", TRAINED): "check 'x' of g/checkpoint failed.", ("b", SCORED): "no memory"}
    with pytest.raises(running.RunFailedError) as e:
        run_grid()
    assert [partition for partition, *_ in grid.made] == [None, "a", "b", "c"], "all points, and no table"
    said = str(e.value)
    assert "2 of 3 points could not be made" in said
    assert "a, Dagster run r1: The run did not finish:\n        check 'x' of g/checkpoint failed." in said
    assert "b, Dagster run r1" in said
    assert "no memory" in said
    assert "EHR_ALLOW_FAILED_CHECKS" in said


def test_without_what_all_points_read_none_is_tried(grid):
    grid.failing[None, INPUT] = "no such table"
    with pytest.raises(running.RunFailedError, match="no such table"):
        run_grid()
    assert grid.made == [(None, INPUT)]


def test_a_report_on_seeds_has_all_of_them_before_it(grid, monkeypatch):
    monkeypatch.setattr(running, "report_key", lambda name: TABLE)
    monkeypatch.setattr(running, "profile_key", lambda cohort: INPUT)
    project = running.Project()
    project.report_named = lambda name: name
    project.catalog.reports = {"r": SimpleNamespace(cohorts=["c"])}
    running.run_reports(Console(quiet=True), report="r")
    assert grid.made == [(None, INPUT), *((p, TRAINED, SCORED) for p in "abc"), (None, TABLE)]


def test_a_grid_that_is_not_there(grid):
    with pytest.raises(SpecError, match=r"no grid 'h'"):
        run_grid("h")


def test_a_check_that_warns_marks_no_asset_as_failed():
    """A candidate that may not be promoted is a finding, not a failure of the run."""
    view = running._RunView(Console(quiet=True), ["r/verdict"], {})

    def judged(name, passed, severity):
        found = AssetCheckEvaluation(AssetKey(["r", "verdict"]), name, passed, {}, severity=severity)
        event = SimpleNamespace(
            event_type=DagsterEventType.ASSET_CHECK_EVALUATION, asset_check_evaluation_data=found
        )
        view.on_event(SimpleNamespace(step_key="", dagster_event=event))

    view.state["r/verdict"] = "done"
    judged("readable", True, AssetCheckSeverity.ERROR)
    judged("beats_baseline", False, AssetCheckSeverity.WARN)
    assert view.state["r/verdict"] == "done"
    assert view.failures == []
    assert str(view._note("r/verdict", "done")) == "1/2 checks passed; look at beats_baseline"
    judged("readable", False, AssetCheckSeverity.ERROR)
    assert view.state["r/verdict"] == "failed"
    assert "readable" in view.failures[0]
