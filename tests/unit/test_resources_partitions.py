"""Partitioned assets: each partition is a dataset of its own: versions, manifest, checks, ancestry, state."""

import pytest
from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    AssetKey,
    DagsterInstance,
    Definitions,
    StaticPartitionsDefinition,
    asset,
    asset_check,
    materialize,
)

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.hashing import settings_hash
from jobs.status import Graph, State, asset_statuses, locate
from resources.points import SETTINGS_KEY
from resources.storage import ONLY_IF_CHANGED_TAG, Datasets

ROOT, MADE, SCORED, TABLE = (AssetKey(["g", name]) for name in ("root", "made", "scored", "table"))


class Grid:
    """root → made[p] → scored[p] → table; a blocking check on `made`. A test sets what the partitions are."""

    def __init__(self, home):
        self.instance, self.home = DagsterInstance.ephemeral(), home
        self.settings = {"a": {"x": 1}, "b": {"x": 2}}
        self.root, self.bad, self.built = "root", set(), []

    @property
    def datasets(self):
        parts = list(self.settings)
        partitions = {"g/made": parts, "g/scored": parts}
        return Datasets(home=str(self.home), gates={"g/made": ["good"]}, partitions=partitions)

    def assets(self):
        grid, parts = self, StaticPartitionsDefinition(list(self.settings))
        expected = {SETTINGS_KEY: {p: settings_hash(s) for p, s in self.settings.items()}}
        of_point = {"partitions_def": parts, "metadata": expected, "code_version": "code.base"}

        @asset(key=ROOT, code_version="code.1")
        def root(context: AssetExecutionContext, datasets: Datasets):
            return datasets.materialize(context, grid.write("root", grid.root))

        @asset(key=MADE, deps=[ROOT], **of_point)
        def made(context: AssetExecutionContext, datasets: Datasets):
            point = context.partition_key
            body = grid.write(f"made[{point}]", f"{grid.root} {grid.settings[point]}")
            return datasets.materialize(context, body, config=grid.settings[point])

        @asset_check(asset=MADE, name="good", blocking=True, partitions_def=parts)
        def good(context: AssetCheckExecutionContext, datasets: Datasets):
            return datasets.judge(datasets.judged(context, MADE), context.partition_key not in grid.bad)

        @asset(key=SCORED, deps=[MADE, ROOT], **of_point)
        def scored(context: AssetExecutionContext, datasets: Datasets):
            def body(step):
                text = (step.inputs["g/made"].path / "file.txt").read_text()
                return grid.write(f"scored[{context.partition_key}]", text)(step)

            return datasets.materialize(context, body, config=grid.settings[context.partition_key])

        @asset(key=TABLE, deps=[SCORED], code_version=f"code.{len(self.settings)}")
        def table(context: AssetExecutionContext, datasets: Datasets):
            def body(step):
                texts = [f"{name}: {(d.path / 'file.txt').read_text()}" for name, d in step.inputs.items()]
                return grid.write("table", "\n".join(texts))(step)

            return datasets.materialize(context, body)

        return [root, made, good, scored, table]

    def write(self, name, text):
        def body(step):
            self.built.append(name)
            (step.out / "file.txt").write_text(text)
            return {}

        return body

    def run(self, *keys, partition=None, **more):
        return materialize(
            self.assets(),
            instance=self.instance,
            resources={"datasets": self.datasets},
            selection=list(keys),
            partition_key=partition,
            raise_on_error=False,
            **more,
        )

    def run_all(self):
        assert self.run(ROOT).success
        for point in self.settings:
            assert self.run(MADE, SCORED, partition=point).success
        assert self.run(TABLE).success

    def text(self, key, partition=None):
        return (self.datasets.latest(self.instance, key, partition).path / "file.txt").read_text()

    def statuses(self):
        root, made, good, scored, table = self.assets()
        resources = {"datasets": self.datasets}
        graph = Graph(Definitions([root, made, scored, table], asset_checks=[good], resources=resources))
        return asset_statuses(self.instance, graph, self.datasets.store, self.datasets.gates)


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.delenv("EHR_ALLOW_FAILED_CHECKS", raising=False)
    return Grid(tmp_path)


def message(result):
    failure = next(e for e in result.all_events if e.is_step_failure)
    return failure.step_failure_data.user_failure_data.description


def test_each_partition_has_its_own_dataset_and_the_table_reads_all(grid):
    grid.run_all()
    assert grid.text(MADE, "a") == "root {'x': 1}"  # although b was made after it
    assert grid.text(SCORED, "b") == "root {'x': 2}"
    assert grid.text(TABLE).splitlines() == ["g/scored[a]: root {'x': 1}", "g/scored[b]: root {'x': 2}"]
    table = grid.datasets.latest(grid.instance, TABLE)
    assert [entry.asset for entry in table.manifest.inputs] == ["g/scored[a]", "g/scored[b]"]
    (home,) = grid.home.glob("datasets/g/made/b")
    assert len(list(home.iterdir())) == 1


def test_what_a_partition_was_made_from_is_its_own_partition(grid):
    grid.run_all()
    scored = grid.datasets.latest(grid.instance, SCORED, "a")
    assert grid.datasets.used(grid.instance, scored, MADE).manifest.asset == "g/made[a]"
    assert grid.datasets.used(grid.instance, scored, ROOT).manifest.asset == "g/root"


def test_a_gate_is_shut_for_the_partition_whose_check_failed_alone(grid):
    grid.bad = {"b"}
    assert grid.run(ROOT).success
    grid.run(MADE, partition="a")
    grid.run(MADE, partition="b")
    assert grid.run(SCORED, partition="a").success
    refused = message(grid.run(SCORED, partition="b"))
    assert "'g/made[b]' has not passed its checks: good: failed" in refused
    assert "--partition b" in refused
    assert grid.statuses()[MADE].reasons == ["failed check: b"]


def test_results_behind_many_others_are_found(grid):
    grid.run(ROOT)
    assert grid.run(MADE, partition="a").success
    made = grid.datasets.latest(grid.instance, MADE, "a")
    for _ in range(60):
        grid.run(MADE, partition="b", tags={ONLY_IF_CHANGED_TAG: "true"})
    assert made.data_version == grid.datasets.latest(grid.instance, MADE, "a").data_version
    assert grid.run(SCORED, partition="a").success


def test_a_new_point_makes_no_other_stale(grid):
    grid.run_all()
    assert {s.state for s in grid.statuses().values()} == {State.FRESH}
    grid.settings["c"] = {"x": 3}
    found = grid.statuses()
    assert {p: s.state for p, s in found[MADE].partitions.items()} == {
        "a": State.FRESH,
        "b": State.FRESH,
        "c": State.MISSING,
    }
    assert (found[MADE].state, found[MADE].extent, found[MADE].reasons) == (
        State.STALE,
        " 2/3",
        ["missing: c"],
    )
    assert "missing upstream: scored[c]" in found[TABLE].reasons
    assert "'g/scored[c]' has not been materialized" in message(grid.run(TABLE))
    grid.built.clear()
    assert grid.run(MADE, SCORED, partition="c").success
    assert grid.run(TABLE).success
    assert {s.state for s in grid.statuses().values()} == {State.FRESH}
    assert grid.built == ["made[c]", "scored[c]", "table"]


def test_other_settings_of_a_point_make_that_point_stale(grid):
    grid.run_all()
    grid.settings["a"] = {"x": 7}
    parts = grid.statuses()[MADE].partitions
    assert (parts["a"].state, parts["a"].reasons) == (State.STALE, ["its spec changed"])
    assert parts["b"].state is State.FRESH
    assert grid.statuses()[TABLE].state is State.STALE
    grid.built.clear()
    for point in ("a", "b"):
        assert grid.run(MADE, SCORED, partition=point, tags={ONLY_IF_CHANGED_TAG: "true"}).success
    assert grid.built == ["made[a]", "scored[a]"]


def test_other_data_makes_every_point_stale_and_is_not_mixed_with_the_old(grid):
    grid.run_all()
    grid.root = "new root"
    assert grid.run(ROOT).success
    assert grid.statuses()[MADE].state is State.STALE
    assert grid.run(MADE, SCORED, partition="a").success
    assert "different versions of g/root" in message(grid.run(TABLE))
    assert grid.run(MADE, SCORED, partition="b").success
    assert grid.run(TABLE).success


def test_a_partition_is_shown_by_name(grid):
    grid.run_all()
    assert locate(grid.statuses(), "g/made[b]").data_version
    with pytest.raises(DatasetError, match=r"name one of its partitions, as in g/made\[a\]"):
        locate(grid.statuses(), "g/made")
