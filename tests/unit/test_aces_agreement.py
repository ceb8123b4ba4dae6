"""Our labels and those of es-aces: equal at every node, for every task that its language can express."""

import importlib.util

import pytest
from aces_support import Question, codes_of, inexpressible, write_flat
from simulators_support import Simulated
from test_meds_mimic import ROOT, SPEC

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from ehr_assets.nodes.frames import read_labels
from ehr_assets.nodes.labels import label_nodes
from ehr_assets.nodes.task_spec import TASK_SETS, load_task_set, task_set_path
from ehr_assets.nodes.triggers import find_nodes

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("aces"), reason="es-aces is not installed")


@pytest.fixture(scope="session")
def cohorts(tmp_path_factory, worlds):
    """Cohort → its spec, and where its MEDS frame, nodes and labels lie; made when it is asked for."""
    made = {}

    def mimic():
        if not (ROOT / "hosp").is_dir():
            pytest.skip("no MIMIC-IV tables: set EHR_MIMIC_IV_ROOT to their directory")
        spec, root = load_cohort(SPEC), tmp_path_factory.mktemp("mimic")
        splits, meds, nodes, labels = (root / part for part in ("splits", "meds", "nodes", "labels"))
        for folder in (splits, meds, nodes, labels):
            folder.mkdir()
        write_splits(spec, ROOT, splits)
        extract_meds(spec, ROOT, splits, meds)
        find_nodes(spec.decision_nodes, spec.name, meds, nodes)
        tasks = load_task_set(task_set_path(spec.decision_nodes.task_set))
        label_nodes(tasks, spec.decision_nodes, nodes, meds, labels)
        return spec, meds, nodes, labels

    def get(name):
        if name not in made:
            world: Simulated | None = worlds.get(name)
            made[name] = (world.spec, world.meds[0], world.nodes, world.labels) if world else mimic()
        return made[name]

    return get


ASKED = {"oncology": "oncology", "pe": "pe", "icu": "icu", "mimic_iv": "mimic_iv"}  # cohort: task file
TASKS = [
    (cohort, task.name)
    for cohort, file in ASKED.items()
    for task in load_task_set(TASK_SETS / f"{file}.yaml").tasks
]


@pytest.mark.parametrize(("cohort", "name"), TASKS)
def test_labels_equal_those_of_aces(cohorts, tmp_path, cohort, name):
    tasks = load_task_set(TASK_SETS / f"{ASKED[cohort]}.yaml")
    (task,) = (t for t in tasks.tasks if t.name == name)
    if reason := inexpressible(task):
        pytest.skip(f"ACES cannot ask this: {reason}")
    spec, meds_dir, nodes_dir, labels_dir = cohorts(cohort)
    question = Question(task, tasks, codes_of(meds_dir))
    whole = cohort != "mimic_iv"
    flat = write_flat(question, spec.decision_nodes, nodes_dir, meds_dir, tmp_path / "flat.parquet", whole)
    theirs = question.answer(flat)
    labels = read_labels(labels_dir, name).select("subject_id", "prediction_time", "boolean_value")
    ours = {(s, t): value for s, t, value in labels.drop_nulls().iter_rows()}
    assert len(labels) > 0
    differ = {k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)}
    assert not differ, f"{len(differ)} of {len(labels)} nodes"
