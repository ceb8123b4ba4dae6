"""Cohorts of which little or nothing can be said, from their tables to the page; and the same cohort twice.

What cannot be scored is counted and shown with its reason: never a crash, never a silent 0.5.
"""

import polars as pl
import pytest
from made_up import CANNOT, NAME, RECIPE, TASKS, Chain, Cohort

SCORES = (
    f"{NAME}/comparison",
    f"{NAME}/baseline_metrics",
    f"{RECIPE}/probe_metrics",
    f"{RECIPE}/control_metrics",
)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """A cohort with nothing wrong, asked questions that cannot be answered among others that can."""
    return Chain(tmp_path_factory.mktemp("ordinary"), Cohort())


def values(chain, asset):
    """(task, metric, value) of whatever was scored in a dataset."""
    table = pl.read_parquet(chain.dataset(asset).path / "metrics.parquet")
    return table.filter(pl.col("value").is_not_null()).select("task", "metric", "value")


def failed_blocking_checks(chain):
    return [e.check_name for e in chain.result.get_asset_check_evaluations() if e.blocking and not e.passed]


def test_tasks_that_cannot_be_asked_are_listed_and_the_others_scored(ordinary):
    assert ordinary.errors == []
    assert ordinary.result.success
    assert set(values(ordinary, f"{NAME}/comparison")["task"]) == set(TASKS) - set(CANNOT)
    for asset in SCORES[1:]:
        assert not set(values(ordinary, asset)["task"]) & set(CANNOT), asset
    for task in CANNOT:
        assert task in ordinary.page


def test_the_page_says_why_a_task_was_not_scored(ordinary):
    for task, why in {
        "no_positives_90d": "the outcome never follows a node",
        "never_occurs_90d": "no such code in the cohort",
    }.items():
        rows = [row for row in ordinary.page.split("<tr") if f"{task}<" in row or f"{task}," in row]
        assert any(why in row for row in rows), task


def test_what_looks_like_a_slip_in_the_task_file_is_named(ordinary):
    (found,) = (
        e for e in ordinary.result.get_asset_check_evaluations() if e.check_name == "tasks_have_both_classes"
    )
    said = {name: value.value for name, value in found.metadata.items()}
    assert (found.passed, found.blocking) == (False, False)
    assert said["same_definitions"] == ["relapse_120d, again_120d"]
    assert said["outcome_never_occurs"] == ["never_occurs_90d", "no_number_60d"]
    assert set(said["tasks_lacking_a_class"]) == set(CANNOT)


def test_a_fresh_home_gives_the_same_numbers_byte_for_byte(ordinary, tmp_path):
    """With another number of workers, too."""
    again = Chain(tmp_path, Cohort(), workers=2)
    versions = [
        {name: chain.dataset(name).data_version for name in chain.assets} for chain in (ordinary, again)
    ]
    assert versions[0] == versions[1]
    for asset in SCORES:
        first, second = (chain.dataset(asset).path for chain in (ordinary, again))
        for file in ("metrics.parquet", "predictions.parquet"):
            if (first / file).exists():
                assert (first / file).read_bytes() == (second / file).read_bytes(), (asset, file)
    assert again.page == ordinary.page


@pytest.mark.parametrize(
    "cohort", [Cohort(visits=False), Cohort(subjects=1), Cohort(subjects=6)], ids=["no_nodes", "one", "six"]
)
def test_a_cohort_of_which_nothing_can_be_said_ends_with_a_page_that_says_nothing(tmp_path, cohort):
    chain = Chain(tmp_path, cohort)
    assert chain.errors == []
    assert failed_blocking_checks(chain) == []
    for asset in SCORES:
        assert values(chain, asset).is_empty(), asset
    for task in TASKS:
        assert task in chain.page
    assert '"may_be_promoted": false' in (chain.path("verdict") / "verdict.json").read_text()


def test_a_model_that_says_the_same_of_everyone_is_not_scored(tmp_path):
    chain = Chain(tmp_path, Cohort(), silent=True)
    assert chain.errors == []
    warned = {
        e.check_name
        for e in chain.result.get_asset_check_evaluations()
        if not e.passed and e.asset_key.path == [RECIPE, "node_embeddings"]
    }
    assert warned == {"all_usable"}
    assert values(chain, f"{RECIPE}/probe_metrics").is_empty()
    assert not values(chain, f"{NAME}/baseline_metrics").is_empty()
    fits = pl.read_parquet(chain.dataset(f"{RECIPE}/probe_metrics").path / "fits.parquet")
    reasons = dict(fits.select("task", "note").rows())
    assert {t for t, why in reasons.items() if why == "constant_features"} == set(TASKS) - set(CANNOT)
    assert '"may_be_promoted": false' in (chain.path("verdict") / "verdict.json").read_text()
    assert "relapse_120d" in chain.page
