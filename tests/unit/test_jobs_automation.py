"""What makes itself after its inputs changed, behind passed checks; and what never does."""

import pytest
from dagster import (
    AssetCheckResult,
    AssetKey,
    AutomationCondition,
    DagsterInstance,
    DataVersion,
    Definitions,
    FreshnessPolicy,
    MaterializeResult,
    asset,
    asset_check,
    evaluate_automation_conditions,
    materialize,
)
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from ehr_assets.build import build_project
from ehr_assets.settings import Settings
from jobs.automation import CHEAP, with_automation
from jobs.retraining import RetrainingSpec

UP, DOWN, DEAR = (AssetKey(["m", name]) for name in ("node_embeddings", "probe_metrics", "checkpoint"))


class Pair:
    """Embeddings, what is read off them, and a checkpoint that nobody asked for."""

    def __init__(self):
        self.instance = DagsterInstance.ephemeral()
        self.content, self.good, self.cursor = "1", True, None

        @asset(key=DEAR)
        def checkpoint():
            return MaterializeResult(data_version=DataVersion(self.content))

        @asset(key=UP, deps=[DEAR])
        def embeddings():
            return MaterializeResult(data_version=DataVersion(self.content))

        @asset(key=DOWN, deps=[UP])
        def metrics():
            return MaterializeResult(data_version=DataVersion(self.content))

        @asset_check(asset=UP, blocking=True)
        def whole():
            return AssetCheckResult(passed=self.good)

        assets = with_automation([checkpoint, embeddings, metrics], RetrainingSpec())
        self.assets, self.check = assets, whole

    def make(self, *keys):
        return materialize(
            [*self.assets, self.check], selection=list(keys), instance=self.instance, raise_on_error=False
        )

    def requested(self):
        defs = Definitions(assets=self.assets, asset_checks=[self.check])
        found = evaluate_automation_conditions(defs, instance=self.instance, cursor=self.cursor)
        self.cursor = found.cursor
        return {key for key in (UP, DOWN, DEAR) if found.get_num_requested(key)}


@pytest.fixture
def pair():
    made = Pair()
    made.make(DEAR, UP, DOWN)
    made.requested()  # begins to look
    return made


def test_new_contents_behind_passed_checks_are_taken_up(pair):
    assert pair.requested() == set()
    pair.content = "2"
    pair.make(UP)
    assert pair.requested() == {DOWN}
    assert pair.requested() == set(), "once"


def test_what_came_out_as_it_was_asks_for_nothing(pair):
    pair.make(UP)
    assert pair.requested() == set()


def test_nothing_is_made_of_what_failed_its_check_until_it_passes(pair):
    pair.content, pair.good = "2", False
    pair.make(UP)
    assert pair.requested() == set()
    pair.good = True
    materialize([*pair.assets, pair.check], selection=[UP], instance=pair.instance)
    assert pair.requested() == {DOWN}


def test_a_checkpoint_and_embeddings_never_make_themselves(pair):
    pair.content = "2"
    pair.make(DEAR)
    assert pair.requested() == set()


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    settings = Settings(home=tmp_path_factory.mktemp("home"), retraining='{"warn_days": 2, "fail_days": 3}')
    return build_project(settings).definitions.resolve_all_asset_specs()


def test_only_what_is_cheap_has_a_condition(specs):
    given = {spec.key.path[-1] for spec in specs if spec.automation_condition}
    assert given == CHEAP
    assert not {part for part in given if "embeddings" in part or part in ("checkpoint", "promotion")}
    assert all(
        isinstance(s.automation_condition, AutomationCondition) for s in specs if s.key.path[-1] in CHEAP
    )


def test_reports_have_the_freshness_that_is_set(specs):
    for spec in specs:
        policy = spec.freshness_policy
        assert (policy is not None) is (spec.key.path[-1] == "report"), spec.key
        if policy is not None:
            assert isinstance(policy, FreshnessPolicy)
            assert isinstance(policy, TimeWindowFreshnessPolicy)
            days = [w.to_timedelta().days for w in (policy.warn_window, policy.fail_window) if w]
            assert days == [2, 3]
