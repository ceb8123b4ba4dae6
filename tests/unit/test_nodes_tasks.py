"""The task files of the house: the paper's taxonomy, and that the embedded cohort can answer most of it."""

import re
from collections import Counter

import polars as pl
import pytest
from simulators_support import SPECS, Simulated

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.nodes.frames import EVENT, read_labels
from ehr_assets.nodes.task_spec import TASK_SETS, TaskSpec, load_task_set, task_set_path

FEWEST = 5
"""Positives and negatives below which a task is listed and not scored."""


def test_oncology_has_61_tasks_in_the_five_dimensions_of_table_9():
    tasks = load_task_set(task_set_path("oncology"))
    assert len(tasks.tasks) == 61
    assert Counter(t.category for t in tasks.tasks) == {
        "Disease Progression": 22,
        "Toxicity & Adverse Events": 20,
        "Treatment Durability": 9,
        "Treatment Response": 6,
        "Overall Survival": 4,
    }
    windows = {(t.category, t.longest_days) for t in tasks.tasks}
    assert windows == {
        ("Disease Progression", 180),
        ("Toxicity & Adverse Events", 90),
        ("Treatment Durability", 365),
        ("Treatment Response", 180),
        *(("Overall Survival", days) for days in (90, 180, 365)),
    }


def test_lines_and_classes_of_drugs_are_made_of_the_agents_that_start_a_therapy():
    tasks = load_task_set(task_set_path("oncology"))
    nodes = load_cohort(SPECS / "synthetic_oncology.yaml").decision_nodes
    assert nodes
    (start,) = (t.codes for t in nodes.triggers if t.name == "start_of_therapy")
    assert tasks.derived["new_line"].codes == start
    classes = [t.outcome.codes[0] for t in tasks.tasks if t.name.startswith("first_") and t.outcome]
    agents = [agent for code in classes for agent in re.findall(r"\d+", code)]
    assert sorted(agents) == sorted(re.findall(r"\d+", start[0]))  # each in one class


@pytest.mark.parametrize("path", sorted(TASK_SETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_no_question_is_asked_twice(path):
    assert load_task_set(path).same_definitions() == []


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_tasks_of_a_cohort_ask_at_nodes_that_it_has(path):
    nodes = load_cohort(path).decision_nodes
    if nodes is None:
        pytest.skip("has no decision nodes")
    load_task_set(task_set_path(nodes.task_set)).require_triggers_of(nodes)


def test_both_tasks_of_stays_and_of_hours_are_there():
    """In-hospital death to the end of the stay, times to an event and values: in the cohorts with stays."""
    for name in ("mimic_iv", "icu"):
        tasks = load_task_set(task_set_path(name)).tasks
        assert {t.kind for t in tasks} == {"binary", "time_to_event", "regression"}
        assert [t.name for t in tasks if t.until] == ["in_hospital_mortality"]
        assert sum(t.triggers == ["icu_every_12h"] for t in tasks) >= 4


@pytest.fixture(scope="module")
def oncology(tmp_path_factory):
    """As many subjects as the cohort file says."""
    subjects = load_cohort(SPECS / "synthetic_oncology.yaml").source.subjects
    assert subjects == 600
    return Simulated.run("oncology", tmp_path_factory.mktemp("oncology"), subjects)


def classes(task: TaskSpec, labels: pl.DataFrame) -> tuple[int, int]:
    """Nodes with and without the outcome; of times to an event, censored ones are without."""
    if task.kind == "time_to_event":
        return (labels["status"] == EVENT).sum(), (labels["status"] != EVENT).sum()
    return labels["boolean_value"].sum(), (~labels["boolean_value"]).sum()


def test_most_tasks_can_be_fitted_and_scored_on_the_embedded_cohort(oncology):
    tasks = load_task_set(task_set_path("oncology")).tasks
    splits = pl.read_parquet(oncology.splits / "subject_splits.parquet")
    few = []
    for task in tasks:
        labels = read_labels(oncology.labels, task.name).join(splits, on="subject_id")
        parts = [classes(task, labels.filter(split=split)) for split in ("train", "held_out")]
        if min(min(part) for part in parts) < FEWEST:
            few.append(task.name)
    assert len(tasks) - len(few) >= 45, few
    # Those are rare in the cohort, not mistaken: every outcome but one is seen somewhere.
    seen = {t.name for t in tasks if classes(t, read_labels(oncology.labels, t.name))[0]}
    assert {t.name for t in tasks} - seen <= {"toxicity_grade3_colitis_90d"}
