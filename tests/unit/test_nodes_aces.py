"""Task files of ACES: which load, what is said of the others, and that labels agree with those of es-aces."""

import importlib.util
import random
import shutil
import types
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from aces_support import aces
from nodes_support import at, event, write_meds

from ehr_assets.catalog import load_catalog
from ehr_assets.errors import SpecError
from ehr_assets.nodes.aces import load_aces, nodes_with, tasks_with
from ehr_assets.nodes.aces_spec import duration
from ehr_assets.nodes.frames import read_labels, read_nodes
from ehr_assets.nodes.labels import label_nodes
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes
from ehr_assets.settings import Settings
from ehr_assets.specs import read_yaml

SAMPLES = Path(__file__).parent / "aces"
LOAD = ["abnormal_lab", "inhospital_mortality", "readmission_risk"]


def test_the_samples_that_load_are_those():
    assert sorted(p.stem for p in SAMPLES.glob("*.yaml") if loads(p)) == LOAD


def loads(path: Path) -> bool:
    try:
        load_aces(path)
    except SpecError:
        return False
    return True


def test_a_sample_in_our_words():
    found = load_aces(SAMPLES / "inhospital_mortality.yaml")
    assert found.trigger.model_dump(exclude_defaults=True) == {
        "name": "aces_inhospital_mortality", "kind": "event", "codes": ["^HOSPITAL_ADMISSION//"],
        "offset_hours": 24.0, "merge": "never",
    }  # fmt: skip
    task = found.task
    assert (task.buffer_hours, task.end_of_life_days, task.triggers) == (24, 0, ["aces_inhospital_mortality"])
    assert task.description == "Death in hospital, asked 24 hours after the admission"
    assert task.outcome.codes == ["^HOSPITAL_DISCHARGE//DIED$"]
    assert task.until.codes == ["^HOSPITAL_DISCHARGE//", "^HOSPITAL_DISCHARGE//DIED$"]
    ruled_out = [(rule.codes, [round(24 * days, 6) for days in rule.between_days]) for rule in task.exclude]
    assert ruled_out == [
        (["^HOSPITAL_ADMISSION//"], [-24, 24]),
        (["^HOSPITAL_DISCHARGE//"], [-24, 24]),
        (["^HOSPITAL_DISCHARGE//DIED$"], [-24, 24]),
    ]
    assert all(rule.between_days[0] > -1 for rule in task.exclude)  # the trigger itself lies outside


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ("imminent_mortality", ["trigger: _ANY_EVENT is no event", "windows.target.start_inclusive"]),
        (
            "intervention_weaning",
            [
                "predicates.ventilation_start: and(…)",
                "exactly one must have a label; 0 do",
                "windows.input.has.procedure_start: counts other than",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_named_all_at_once(sample, says):
    with pytest.raises(SpecError) as e:
        load_aces(SAMPLES / f"{sample}.yaml")
    assert all(part in str(e.value) for part in says)
    assert f"{len(says)} part(s)" in str(e.value)
    assert f"{sample}.yaml" in str(e.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trigger": "nobody"}, "trigger: there is no predicate 'nobody'"),
        ({"predicates.admission.unit": "ward"}, "predicates.admission.unit: only code and value"),
        ({"predicates.admission.code": {"regex": "(?z)"}}, "not one of Python's"),
        ({"predicates.admission.value_min": 3}, "trigger: a trigger goes by code alone"),
        ({"windows.gap.has.discharge": "(None, 1)"}, "windows.gap.has.discharge: counts other than"),
        ({"windows.gap.has": {}}, "windows.target.end: 'discharge_or_death' in the gap must be ruled out"),
        ({"windows.gap.has.death": "(1, None)"}, "must be looked for up to the index"),
        ({"windows.gap.start": "trigger <- discharge"}, "windows.gap.start: a window bounded by an earlier"),
        ({"windows.gap.start": "gap.end", "windows.gap.end": "start + 2h"}, "in a circle"),
        ({"windows.gap.end": "start + 2 fortnights"}, "is no duration"),
        ({"windows.target.start": "trigger"}, "at or after the index"),
        ({"windows.target.start": "gap.last"}, "neither the trigger nor the start or end"),
        ({"windows.target.end": None}, "has no horizon"),
        ({"windows.target.end": "start + 30h"}, "windows.target.end: the horizon must be whole days"),
        ({"windows.target.end_inclusive": False}, "windows.target.end_inclusive"),
        ({"windows.input.end": "trigger - 1h"}, "the index lies before the trigger"),
        ({"windows.input.end": "trigger -> discharge"}, "make that event the trigger"),
        ({"windows.input.index_timestamp": None}, "exactly one must have index_timestamp; 0 do"),
        ({"predicates.admission": {"expr": "or(admission, death)"}}, "refer to one another in a circle"),
        ({"predicates.admission.code": {"any": []}}, "at least one text"),
        (
            {"windows.target.end": "start + 99999999999 days"},
            "windows.target.end: '99999999999 days' is longer",
        ),
        (
            {"patient_demographics": {"sex": {"code": "F"}}, "windows.input.has": {"sex": "(1, None)"}},
            "static",
        ),
    ],
)
def test_each_part_that_does_not_fit_has_its_reason(tmp_path, change, says):
    with pytest.raises(SpecError) as e:
        load_aces(changed(tmp_path, "inhospital_mortality", change))
    assert says in str(e.value)
    assert "task.yaml" in str(e.value)


def changed(folder: Path, sample: str, change: dict) -> Path:
    """The sample with other values for dotted keys."""
    data = read_yaml(SAMPLES / f"{sample}.yaml")
    for dotted, value in change.items():
        *parents, last = dotted.split(".")
        node = data
        for key in parents:
            node = node[key]
        node[last] = value
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


DAY_IN_US = 86_400_000_000


@pytest.mark.parametrize(
    ("start", "end", "microseconds"),
    [(True, True, (-1, 0)), (False, True, (0, 0)), (True, False, (-1, -1)), (False, False, (0, -1))],
)
def test_the_ends_of_windows_are_in_or_out_to_the_microsecond(tmp_path, start, end, microseconds):
    """From 24 h before the index to 24 h after it, with -1 where the first or the last instant is moved."""
    ends = {
        "windows.gap.start_inclusive": start,
        "windows.gap.end_inclusive": end,
        "windows.gap.end": "start + 49h",
    }
    ends["windows.target.start"] = "trigger + 48h"
    rules = load_aces(changed(tmp_path, "inhospital_mortality", ends)).task.exclude
    first, last = (round(days * DAY_IN_US) for days in rules[0].between_days)
    moved_in, moved_out = microseconds
    assert first == -DAY_IN_US + 1 + moved_in
    assert last == DAY_IN_US + DAY_IN_US // 24 + moved_out


@pytest.mark.parametrize(("start", "within"), [(True, 30 * DAY_IN_US), (False, 30 * DAY_IN_US - 1)])
def test_what_is_required_begins_at_the_start_or_after_it(tmp_path, start, within):
    file = changed(tmp_path, "readmission_risk", {"windows.input.start_inclusive": start})
    assert round(load_aces(file).task.at_risk.requires_prior.within_days * DAY_IN_US) == within


def test_none_may_be_told_as_exactly_none_and_at_least_none_is_nothing(tmp_path):
    def asked(change: dict) -> tuple:
        task = load_aces(changed(tmp_path, "inhospital_mortality", change)).task
        return sorted(map(str, task.exclude)), task.at_risk

    as_it_is = asked({})
    assert asked({"windows.gap.has.death": "(0, 0)"}) == as_it_is
    assert asked({"windows.input.has": {"death": "(0, None)"}}) == as_it_is


def test_an_unknown_key_is_no_aces_file(tmp_path):
    file = tmp_path / "task.yaml"
    file.write_text("predicates: {}\ntrigger: x\nwindows: {}\ncohort: y\n", encoding="utf-8")
    with pytest.raises(SpecError, match="cohort: unknown key"):
        load_aces(file)


@pytest.mark.parametrize(
    ("text", "hours"), [("24h", 24), ("30 days", 720), ("1 day, 2 hours", 26), ("90m", 1.5), ("2 weeks", 336)]
)
def test_durations(text, hours):
    assert duration(text).total_seconds() == hours * 3600


def test_a_cohort_names_its_aces_files(tmp_path):
    cohorts = tmp_path / "cohorts"
    (cohorts / "aces").mkdir(parents=True)
    shutil.copy(SAMPLES / "readmission_risk.yaml", cohorts / "aces")
    (cohorts / "ward.yaml").write_text(
        "extends: mimic_iv\nname: ward\ntitle: Ward\ndecision_nodes: {aces: [aces/readmission_risk.yaml]}\n",
        encoding="utf-8",
    )
    catalog = load_catalog(Settings(home=tmp_path / "home", spec_dirs=(tmp_path,)))
    assert catalog.cohorts["ward"].decision_nodes.triggers[-1].name == "aces_readmission_risk"
    names = [t.name for t in catalog.tasks_of("ward").tasks]
    assert names == [t.name for t in catalog.tasks_of("mimic_iv").tasks] + ["aces_readmission_risk"]


def test_a_name_taken_twice_is_refused():
    found = load_aces(SAMPLES / "readmission_risk.yaml")
    nodes = NodesSpec.model_validate({"task_set": "t", "triggers": [found.trigger.model_dump()]})
    tasks = TaskSet.model_validate({"tasks": [found.task.model_dump()]})
    for add, spec in ((nodes_with, nodes), (tasks_with, tasks)):
        with pytest.raises(SpecError, match="given twice: aces_readmission_risk"):
            add(spec, [found])


# ---- agreement with es-aces, which reads the same files


def stays(subjects: int, seed: int) -> list[dict]:
    """Made-up stays on a grid of two hours, so that events often fall on the ends of windows."""
    draw = random.Random(seed)
    rows = []
    for subject in range(1, subjects + 1):
        clock = 0
        for _ in range(draw.randint(1, 5)):
            clock += 2 * draw.choice([0, 3, 12, 100, 360])
            rows.append(
                event(
                    subject, at(hours=clock), draw.choice(["HOSPITAL_ADMISSION//A", "HOSPITAL_ADMISSION//B"])
                )
            )
            length = 2 * draw.choice([1, 11, 12, 13, 23, 24, 25, 60])
            rows.append(event(subject, at(hours=clock + 2 * draw.randint(0, 3)), "ICU_ADMISSION//MICU"))
            for _ in range(draw.randint(0, 6)):
                hour = clock + 2 * draw.randint(-12, length)
                value = draw.choice([7.5, 8.0, 12.0, 16.5, 17.0])
                rows.append(event(subject, at(hours=hour), "LAB//51222//g/dL", value))
            clock += length
            died = draw.random() < 0.25
            rows.append(event(subject, at(hours=clock), f"HOSPITAL_DISCHARGE//{'DIED' if died else 'HOME'}"))
            if died:
                rows.append(event(subject, at(hours=clock), "MEDS_DEATH", section="death"))
                break
        else:
            rows.append(event(subject, at(hours=clock + 2 * draw.choice([0, 300])), "VISIT"))
    return rows


def asked_of_aces(file: Path, flat: Path, wait: timedelta) -> dict[tuple, bool]:
    """(subject, index) → whether the label occurs, by es-aces from the file as it is.

    The index is reckoned from the trigger: 0.7.3 tells the start of a window whose start refers to its end
    (justin13601/ACES issue 196).
    """
    package = aces()
    task = package.config.TaskExtractorConfig.load(file)
    data = package.predicates.get_predicates_df(task, types.SimpleNamespace(path=str(flat), standard="meds"))
    rows = package.query.query(task, data).select("subject_id", "trigger", "label").iter_rows()
    return {(subject, trigger + wait): label > 0 for subject, trigger, label in rows}


@pytest.mark.skipif(not importlib.util.find_spec("aces"), reason="es-aces is not installed")
@pytest.mark.parametrize("sample", LOAD)
def test_labels_are_those_of_aces_wherever_there_is_one(tmp_path, sample):
    rows = stays(400, seed=5)
    record = write_meds(tmp_path / "meds", rows)
    found = load_aces(SAMPLES / f"{sample}.yaml")
    spec = NodesSpec.model_validate({"task_set": "t", "triggers": [found.trigger.model_dump()]})
    for folder in ("nodes", "labels"):
        (tmp_path / folder).mkdir()
    find_nodes(spec, "c", record, tmp_path / "nodes")
    label_nodes(TaskSet(tasks=[found.task]), spec, tmp_path / "nodes", record, tmp_path / "labels")
    labels = read_labels(tmp_path / "labels", found.task.name)
    ours = {
        (s, t): v for s, t, v in labels.select("subject_id", "prediction_time", "boolean_value").iter_rows()
    }
    wait = timedelta(hours=found.trigger.offset_hours)
    theirs = asked_of_aces(SAMPLES / f"{sample}.yaml", record / "data" / "train" / "0.parquet", wait)

    given = {node: value for node, value in ours.items() if value is not None}
    assert sorted(given.values()).count(True) >= 20
    assert sorted(given.values()).count(False) >= 20
    assert given == {node: theirs.get(node) for node in given}
    # Where only ACES answers, nobody knows yet, or the subject is dead; it leaves nobody out whom we ask.
    silent = labels.filter(pl.col("boolean_value").is_null())
    reasons = {(s, t): r for s, t, r in silent.select("subject_id", "prediction_time", "reason").iter_rows()}
    only_theirs = {reasons.get(node, "no node") for node in set(theirs) - set(given)}
    assert only_theirs <= {"censored", "after_death", "no node", "outcome_in_buffer"}
    nodes = set(read_nodes(tmp_path / "nodes").select("subject_id", "time").iter_rows())
    deaths = {r["subject_id"]: r["time"] for r in rows if r["code"] == "MEDS_DEATH"}
    for subject, index in set(theirs) - nodes:
        assert index >= deaths[subject]
