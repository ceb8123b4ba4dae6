"""What is made of many differences and many tasks: adjusted p values, and means over the tasks shared."""

import numpy as np
import pytest

from ehr_assets.probes.measures import MEASURES
from ehr_assets.probes.multiplicity import benjamini_hochberg, holm, p_of_difference
from ehr_assets.probes.panel_scores import Scored
from ehr_assets.probes.pooling import means


def test_holm_and_benjamini_hochberg_equal_hand_computed_values():
    p = [0.01, 0.04, 0.03, float("nan"), 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, np.nan, 0.02], nan_ok=True)
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, np.nan, 0.02], nan_ok=True)
    assert holm([]) == benjamini_hochberg([]) == []


def test_p_is_uniform_where_there_is_no_difference():
    rng, below = np.random.default_rng(0), 0
    for _ in range(400):
        a = rng.normal(size=60)
        draws = a[rng.integers(0, 60, (300, 60))].mean(axis=1)
        below += p_of_difference(np.r_[a.mean(), draws]) < 0.05
    assert 8 < below < 40  # of 400, 20 are expected
    assert np.isnan(p_of_difference(np.r_[0.2, np.full(50, 0.2)]))
    assert np.isnan(p_of_difference(np.r_[0.2, np.full(50, np.nan)]))


def test_a_method_with_a_single_task_does_not_leave_the_others_that_task_alone():

    def scored(task, strong, rare):
        draws = {name: np.full((2, 11), np.nan) for name in MEASURES["binary"]}
        draws["auroc"][0], draws["auroc"][1] = strong, rare
        seeds = {name: [{1: strong}, {1: rare}] for name in draws}
        methods = (("strong", "logistic"), ("rare", "logistic"))
        about = ("c", task, "category", "binary", methods, 100, np.arange(50))
        return Scored(*about, draws=draws, seeds=seeds)

    panels = [scored("t0", 0.8, 0.7), *(scored(f"t{i}", 0.6, np.nan) for i in range(1, 10))]
    found = {r["recipe"]: r for r in means(panels) if (r["metric"], r["by"]) == ("auroc", "all")}
    assert set(found) == {"strong"}
    assert (found["strong"]["n_tasks"], found["strong"]["value"]) == (10, pytest.approx(0.62))
    # From half of the tasks on, it takes part, and all are scored on what they share.
    panels = [*(scored(f"t{i}", 0.8, 0.7) for i in range(5)), *panels[1:6]]
    assert {r["n_tasks"] for r in means(panels) if r["metric"] == "auroc"} == {5}
