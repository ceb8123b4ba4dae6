"""What stands around every asset: gates that outlive a run, kept results, failures that commit nothing."""

import time

import pytest
from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    EventLogEntry,
    asset,
    asset_check,
    job,
    materialize,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned

from ehr_assets.errors import DatasetError, RawTableError
from resources import storage
from resources.recorded import DATASET_KEY, all_recorded, recorded
from resources.storage import ONLY_IF_CHANGED_TAG, Datasets

UP, DOWN = AssetKey(["c", "up"]), AssetKey(["c", "down"])


class Chain:
    """Two assets, up → down, and a blocking check on `up`, whose behaviour a test can change."""

    def __init__(self, home):
        self.instance = DagsterInstance.ephemeral()
        self.datasets = Datasets(home=str(home), gates={"c/up": ["good"]})
        self.content, self.version, self.good, self.error = "data", "code.1", True, None
        self.built: list[str] = []
        self.works = False  # whether bodies use their work folder
        self.taken_up: list[bool] = []

    def run(self, *names, tags=None):
        chain = self

        @asset(key=UP, code_version=self.version)
        def up(context: AssetExecutionContext, datasets: Datasets):
            return datasets.materialize(context, chain.build("up"))

        @asset(key=DOWN, deps=[UP], code_version="code.1")
        def down(context: AssetExecutionContext, datasets: Datasets):
            return datasets.materialize(context, chain.build("down"))

        @asset_check(asset=UP, name="good", blocking=True)
        def good(context, datasets: Datasets) -> AssetCheckResult:
            return datasets.judge(datasets.latest(context.instance, UP), chain.good)

        return materialize(
            [up, down, good],
            instance=self.instance,
            resources={"datasets": self.datasets},
            selection=[AssetKey(["c", n]) for n in names],
            raise_on_error=False,
            tags=tags,
        )

    def build(self, name):
        def body(step):
            if self.works:
                reached = step.work.open() / "reached"
                self.taken_up.append(reached.exists())
                reached.touch()
            if self.error:
                (step.out / "half.txt").write_text("half")
                raise self.error
            self.built.append(name)
            (step.out / "file.txt").write_text(self.content if name == "up" else "constant")
            return {"n": 1}

        return body

    def message(self, result):
        failure = next(e for e in result.all_events if e.is_step_failure)
        return failure.step_failure_data.user_failure_data.description

    def latest(self, key):
        return self.datasets.latest(self.instance, key)


@pytest.fixture
def chain(tmp_path, monkeypatch):
    monkeypatch.delenv("EHR_ALLOW_FAILED_CHECKS", raising=False)
    return Chain(tmp_path)


def test_a_passed_check_opens_the_gate_in_a_later_run(chain):
    assert chain.run("up").success
    assert chain.run("down").success
    entry = chain.latest(DOWN).manifest.inputs[0]
    assert (entry.asset, entry.data_version) == ("c/up", chain.latest(UP).data_version)


def test_a_check_failed_in_an_earlier_run_keeps_the_gate_shut(chain):
    chain.good = False
    chain.run("up")
    result = chain.run("down")
    assert not result.success
    message = chain.message(result)
    assert "c/up" in message
    assert "good: failed" in message
    assert "EHR_ALLOW_FAILED_CHECKS" in message
    assert chain.built == ["up"]


def test_a_check_that_passed_for_other_data_does_not_open_the_gate(chain):
    assert chain.run("up").success
    chain.content, chain.good = "other data", False
    chain.run("up")
    assert "failed" in chain.message(chain.run("down"))
    # The old content passed before, and passes the gate again: results belong to a data version.
    chain.content, chain.good = "data", True
    assert chain.run("up").success
    assert chain.run("down").success


def test_a_check_never_run_keeps_the_gate_shut(chain):
    chain.datasets = Datasets(home=chain.datasets.home, gates={"c/up": ["good", "never_run"]})
    assert chain.run("up").success
    assert "never_run: has no result" in chain.message(chain.run("down"))


def test_a_check_planned_and_never_run_is_no_result_and_hides_none(chain):
    assert chain.run("up").success
    chain.instance.event_log_storage.store_event(planned(chain.instance))
    assert chain.run("down").success


def planned(instance):
    """A check that a run was going to make."""
    run = instance.create_run_for_job(nothing)
    plan = AssetCheckEvaluationPlanned(asset_key=UP, check_name="good")
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        job_name="nothing",
        event_specific_data=plan,
    )
    return EventLogEntry(
        error_info=None, level="debug", user_message="", run_id=run.run_id, timestamp=time.time(),
        dagster_event=event,
    )  # fmt: skip


@job
def nothing():
    pass


def test_an_override_opens_the_gate_and_is_written_down(chain, monkeypatch):
    chain.good = False
    chain.run("up")
    monkeypatch.setenv("EHR_ALLOW_FAILED_CHECKS", "looking for the defect")
    assert chain.run("down").success
    (line,) = chain.latest(DOWN).manifest.overrides
    assert "good: failed" in line
    assert "looking for the defect" in line


def test_missing_upstream_is_named(chain):
    assert "'c/up' has not been materialized" in chain.message(chain.run("down"))


def test_an_altered_upstream_is_refused(chain):
    chain.run("up")
    (chain.latest(UP).path / "file.txt").write_text("datA")
    assert "altered" in chain.message(chain.run("down"))


def test_unchanged_work_is_kept_only_when_asked(chain):
    tags = {ONLY_IF_CHANGED_TAG: "true"}
    chain.run("up", "down")
    first = chain.latest(DOWN).path
    chain.version = "code.2"  # up is rebuilt with other code but gives the same content
    assert chain.run("up", "down", tags=tags).success
    assert chain.built == ["up", "down", "up"]
    assert chain.latest(DOWN).path == first
    chain.run("up", "down")
    assert chain.built.count("down") == 2


def test_what_has_no_inputs_keeps_its_dataset_if_it_comes_out_the_same(chain):
    chain.run("up")
    first = chain.latest(UP)
    assert chain.run("up", tags={ONLY_IF_CHANGED_TAG: "true"}).success
    assert chain.built == ["up", "up"], "only its content can tell"
    assert [p.name for p in first.path.parent.iterdir()] == [first.path.name]
    assert chain.latest(UP).path == first.path
    chain.version = "code.2"
    chain.run("up", tags={ONLY_IF_CHANGED_TAG: "true"})
    assert chain.latest(UP).path != first.path, "its manifest would name the old code"


def test_changed_content_is_not_kept(chain):
    chain.run("up", "down")
    chain.content = "other"
    chain.run("up", "down", tags={ONLY_IF_CHANGED_TAG: "true"})
    assert chain.built == ["up", "down", "up", "down"]


def test_data_and_code_versions_reach_dagster(chain):
    chain.run("up")
    event = chain.instance.get_latest_materialization_event(UP).asset_materialization
    assert event.tags["dagster/data_version"] == chain.latest(UP).data_version
    assert event.tags["dagster/code_version"] == "code.1"
    assert event.metadata[DATASET_KEY].value.startswith("datasets/c/up/")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RawTableError("The table is missing.", where="labs.csv", do="Put it there."), "labs.csv"),
        (OSError(28, "No space left on device"), "The disk is full"),
        (RuntimeError("IO error: No space left on device (os error 28)"), "The disk is full"),
    ],
)
def test_a_failed_body_commits_nothing_and_explains_itself(chain, error, said):
    chain.error = error
    result = chain.run("up")
    assert not result.success
    assert said in chain.message(result)
    assert chain.instance.get_latest_materialization_event(UP) is None
    assert not list((chain.datasets.store.home / "staging").iterdir())


def test_what_a_failed_body_reached_is_there_for_the_next_and_gone_once_committed(chain):
    chain.works, chain.error = True, RawTableError("Half way.")
    assert not chain.run("up").success
    assert not chain.run("up").success
    chain.version = "code.2"
    assert not chain.run("up").success
    chain.version, chain.error = "code.1", None
    assert chain.run("up").success
    assert chain.run("up").success
    assert chain.taken_up == [False, True, False, True, False]


def test_what_was_committed_by_a_run_that_died_at_once_is_not_made_again(chain):
    chain.works = True
    assert chain.run("up").success
    chain.instance = DagsterInstance.ephemeral()  # which has never heard of it
    assert chain.run("up").success
    assert chain.latest(UP).manifest.stats == {"n": 1}
    assert chain.built == ["up"]
    assert chain.run("up").success
    assert chain.built == ["up", "up"], "asked for again, it is made again"


class Diamond:
    """root → left, root → right, left + right → tip; a test says what root and left hold."""

    def __init__(self, home):
        self.instance = DagsterInstance.ephemeral()
        self.datasets = Datasets(home=str(home), gates={})
        self.root, self.left = "one", "left of {root}"

    def run(self, *names):
        def write(text):
            def body(step):
                (step.out / "file.txt").write_text(text)
                return {}

            return body

        def made(name, deps, text):
            @asset(key=AssetKey(name), deps=[AssetKey(d) for d in deps], code_version="code.1")
            def anything(context: AssetExecutionContext, datasets: Datasets):
                return datasets.materialize(context, write(text))

            return anything

        assets = [
            made("root", [], self.root),
            made("left", ["root"], self.left.format(root=self.root)),
            made("right", ["root"], "right"),
            made("tip", ["left", "right"], "tip"),
        ]
        return materialize(
            assets,
            instance=self.instance,
            resources={"datasets": self.datasets},
            selection=[AssetKey(n) for n in names],
            raise_on_error=False,
        )

    def used(self, name, ancestor):
        dataset = self.datasets.latest(self.instance, AssetKey(name))
        return (self.datasets.used(self.instance, dataset, AssetKey(ancestor)).path / "file.txt").read_text()


def test_inputs_made_from_different_versions_are_not_read_together(tmp_path, monkeypatch):
    diamond = Diamond(tmp_path)
    assert diamond.run("root", "left", "right", "tip").success
    diamond.root = "two"
    assert diamond.run("root", "left").success
    result = diamond.run("tip")
    assert not result.success
    message = Chain.message(diamond, result)
    assert "different versions of root (data versions" in message
    assert "ehr run" in message
    monkeypatch.setenv("EHR_ALLOW_FAILED_CHECKS", "comparing")
    assert diamond.run("tip").success
    (line,) = diamond.datasets.latest(diamond.instance, AssetKey("tip")).manifest.overrides
    assert "root" in line
    assert "comparing" in line
    monkeypatch.delenv("EHR_ALLOW_FAILED_CHECKS")
    assert diamond.run("right").success
    assert diamond.run("tip").success


def test_equal_content_counts_as_made_from_either(tmp_path):
    diamond = Diamond(tmp_path)
    diamond.left = "left whatever root"
    assert diamond.run("root", "left", "right", "tip").success
    diamond.root = "two"
    assert diamond.run("root", "left", "right").success  # all new, left and right with the old content
    assert diamond.run("tip").success


def test_checks_hold_a_dataset_against_what_it_was_made_from(tmp_path):
    diamond = Diamond(tmp_path)
    assert diamond.run("root", "left", "right", "tip").success
    diamond.root = "two"
    assert diamond.run("root").success
    assert diamond.used("tip", "root") == "one"
    with pytest.raises(DatasetError, match="0 versions of 'elsewhere'"):
        diamond.used("tip", "elsewhere")


def test_the_cost_of_an_ancestry_does_not_grow_with_its_length(tmp_path, monkeypatch):
    """Counted in questions to Dagster: one for each asset above would make a chain cost its square."""
    keys = [AssetKey(["c", f"a{i}"]) for i in range(9)]
    asked = []
    monkeypatch.setattr(storage, "recorded", lambda *args: asked.append(args[1]) or recorded(*args))
    monkeypatch.setattr(storage, "all_recorded", lambda *args: asked.append("all") or all_recorded(*args))

    def link(i):
        @asset(key=keys[i], deps=keys[i - 1 : i] if i else [], code_version="1")
        def made(context: AssetExecutionContext, datasets: Datasets):
            def build(step):
                (step.out / "file.txt").write_text(str(i))
                return {}

            return datasets.materialize(context, build)

        return made

    with DagsterInstance.ephemeral() as instance:
        resources = {"datasets": Datasets(home=str(tmp_path), gates={})}
        assert materialize([link(i) for i in range(9)], instance=instance, resources=resources).success
    assert len(asked) <= 2 * len(keys), asked
