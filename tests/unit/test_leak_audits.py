"""Whole audits: which guards they hold, that they are the same again, and cohorts with next to nothing."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nodes_support import ANCHOR, at, event, labels_of
from planted_support import MAX_TOKENS, clean_chain, honest_entries, usable_subjects, write_fits

from ehr_assets.embeddings.windows import Windows
from ehr_assets.leakage.audit import CohortInputs, Said, audit_cohort, audit_recipe
from ehr_assets.leakage.findings import FINDING_SCHEMA, FINDINGS, read_findings
from ehr_assets.leakage.guards import COHORT_GUARDS, RECIPE_GUARDS
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.leakage.persons import persons_in_one_split
from ehr_assets.leakage.proof import CohortFiles, fits_proved
from ehr_assets.meds.splits import person_hashes, write_split_table
from ehr_assets.nodes.frames import read_labels, read_nodes
from ehr_assets.nodes.trigger_spec import NodesSpec


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return clean_chain(tmp_path_factory.mktemp("chain"))


LAID = Windows(MAX_TOKENS)


def outcomes(chain) -> dict:
    return {"tasks": [task.model_dump(mode="json") for task in chain.tasks.tasks]}


def write_states(chain, out) -> None:
    """States of nodes that know nothing, with where each node's window begins and ends."""
    from ehr_assets.corpora.reader import TokenCorpus

    corpus, nodes = TokenCorpus(chain.corpus), read_nodes(chain.nodes)
    firsts, lasts = [], []
    for subject, t in nodes.select("subject_id", "time").iter_rows():
        record = corpus.find(chain.cohort, subject)
        assert record is not None
        at = chain.window(record, np.datetime64(t, "us"))
        timed = at[at >= record.n_demographics]
        firsts.append(int(timed[0]) if len(timed) else None)
        lasts.append(int(at[-1]))
    values = np.random.default_rng(0).normal(size=nodes.height * 8).astype(np.float32)
    table = nodes.select("node_id", "subject_id", "time").to_arrow()
    table = table.append_column("cohort", pa.array([chain.cohort] * nodes.height))
    table = table.append_column("first_timed", pa.array(firsts, pa.int32()))
    table = table.append_column("last", pa.array(lasts, pa.int32()))
    table = table.append_column("embedding", pa.FixedSizeListArray.from_arrays(pa.array(values), 8))
    pq.write_table(table, out / "embeddings.parquet")


def audit_of_recipe(chain, out, cohorts):
    states = chain.folder("states")
    write_states(chain, states)
    return audit_recipe("r", chain.corpus_spec, chain.corpus, chain.tokenizer, states, cohorts, LAID, out)


def test_an_audit_holds_the_guards_that_its_checks_are_named_after(chain, tmp_path):
    said = Said(chain.nodes_spec, chain.rules, outcomes(chain))
    for name in ("one", "again"):
        (tmp_path / name).mkdir()
        stats = audit_cohort(chain.inputs, said, tmp_path / name)
        assert stats["failed"] == 0
    found = read_findings(tmp_path / "one")
    assert found.schema == pl.DataFrame(FINDING_SCHEMA.empty_table()).schema
    assert set(found["guard"]) == set(COHORT_GUARDS)
    assert (tmp_path / "one" / FINDINGS).read_bytes() == (tmp_path / "again" / FINDINGS).read_bytes()


def test_so_does_that_of_a_recipe(chain, tmp_path):
    for cohorts in (1, 2):
        out = tmp_path / str(cohorts)
        out.mkdir()
        audit_of_recipe(chain, out, [chain.inputs] * cohorts)
        missing = {"no_near_duplicates"} if cohorts == 1 else set()
        assert set(read_findings(out)["guard"]) == set(RECIPE_GUARDS) - missing


TASK = {"name": "t", "horizon_days": 30, "outcome": {"codes": ["^OUT$"]}, "category": "c", "description": "d"}


@pytest.mark.parametrize("subjects", [0, 1, 3])
def test_an_audit_of_next_to_nothing_says_so_and_does_not_stumble(tmp_path, subjects):
    """No node at all, a single subject, a few of one class: nothing to refuse, and every guard has run."""
    rows = [event(s, at(d), code) for s in range(1, 4) for d, code in ((1, "VISIT"), (300, "VISIT"))]
    rows += [event(s, at(100), "ANCHOR") for s in range(1, subjects + 1)]
    labels_of(tmp_path, [TASK], rows)
    (tmp_path / "splits").mkdir()
    splits = pl.DataFrame({"subject_id": [1, 2, 3], "split": ["train", "tuning", "held_out"]})
    write_split_table(splits, tmp_path / "splits" / "subject_splits.parquet")
    persons = splits.select("subject_id", pl.col("subject_id").cast(pl.String).alias("person"))
    pq.write_table(persons.to_arrow(), tmp_path / "splits" / "persons.parquet")
    cohort = CohortInputs("c", *(tmp_path / name for name in ("meds", "splits", "nodes", "labels")))
    spec = NodesSpec.model_validate({"task_set": "t", "triggers": [ANCHOR]})
    (tmp_path / "out").mkdir()
    stats = audit_cohort(cohort, Said(spec, [], {"tasks": [TASK]}), tmp_path / "out")
    assert stats["failed"] == 0
    assert set(read_findings(tmp_path / "out")["guard"]) == set(COHORT_GUARDS)


# --- Persons


def roster(*keys: str | None) -> pl.DataFrame:
    own = [str(i) for i in range(len(keys))]
    filled = [key or name for key, name in zip(keys, own, strict=True)]
    return pl.DataFrame({"key": filled, "declared": [key is not None for key in keys]})


def test_a_person_key_means_the_same_person_everywhere_and_an_id_does_not():
    one, two = person_hashes(roster("MRN1", None, "1"), "a"), person_hashes(roster("MRN2", None, "MRN1"), "b")
    assert one[0] == two[2]
    assert one[1] != two[1]  # two cohorts number their subjects alike
    assert one[1] != one[2]  # subject 1, and the person whose key is 1
    assert one.str.len_chars().to_list() == [32, 32, 32]
    assert "MRN" not in "".join(one)


def test_subjects_without_a_person_are_refused(chain):
    out = chain.dealt(lambda s: s).splits[chain.cohort]
    pq.write_table(pq.read_table(out / "persons.parquet").slice(3), out / "persons.parquet")
    (several, nameless) = persons_in_one_split("r", {chain.cohort: out})
    assert (several.verdict, nameless.verdict, nameless.measured) == ("ok", "fail", 3)


# --- The proof of fits


def proved(chain):
    files = CohortFiles(chain.nodes, chain.labels, chain.splits[chain.cohort])
    return fits_proved("r", chain.fits, {chain.cohort: files})


def test_honest_fits_of_each_kind_of_label_are_proved(chain):
    (together,) = proved(chain)
    assert (together.verdict, together.n) == ("ok", len(honest_entries(chain)))
    labels = read_labels(chain.labels, "mortality_365d")
    followed = labels.filter(pl.col("status").is_not_null() & (pl.col("duration_days") > 0))["subject_id"]
    train = set(followed) & set(chain.subjects("train"))
    assert proved(chain.fitted(("cox", "mortality_365d", train, "fitted")))[0].verdict == "ok"


def test_fits_within_an_indication_are_held_against_its_nodes(chain):
    nodes, labels = read_nodes(chain.nodes), read_labels(chain.labels, "progression_any_180d")
    within = nodes.drop_nulls("indication")["indication"].mode().sort()[0]
    mine = labels.filter(pl.col("boolean_value").is_not_null()).join(
        nodes.filter(pl.col("indication") == within), on="node_id", how="semi"
    )
    train = set(mine["subject_id"]) & set(chain.subjects("train"))
    ledger = FitLedger()
    ledger.saw("logistic", chain.cohort, "progression_any_180d", train)
    folder = write_fits(chain.folder("fits"), ledger)
    assert proved(chain.with_(fits=folder))[0].verdict == "fail"  # not all that the task has
    steps = json.loads((folder / "fitted_on.json").read_text())["steps"]
    said = {"steps": [{**step, "indication": within} for step in steps]}
    (folder / "fitted_on.json").write_text(json.dumps(said))
    assert proved(chain.with_(fits=folder))[0].verdict == "ok"


def predictions(chain, split: str, task: str = "progression_any_180d") -> pa.Table:
    rows = [(chain.cohort, task, "logistic", s, split) for s in chain.subjects("held_out")[:5]]
    names = ("cohort", "task", "probe", "subject_id", "split")
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))


@pytest.mark.parametrize(
    ("split", "task", "about"),
    [
        ("held_out", "progression_any_180d", None),
        ("tuning", "progression_any_180d", "predictions"),
        ("train", "progression_any_180d", "predictions"),
        ("held_out", "mortality_365d", "mortality_365d: logistic"),  # scores, and no fit of that task
    ],
)
def test_scores_lie_in_their_split_and_have_a_fit(chain, split, task, about):
    pq.write_table(predictions(chain, split, task), chain.fits / "predictions.parquet")
    failed = [f.about for f in proved(chain) if f.verdict == "fail" and f.about]
    (chain.fits / "predictions.parquet").unlink()
    assert failed == ([f"{chain.cohort}: {about}"] if about else [])


def test_an_entry_of_an_unknown_role_or_without_a_step_is_refused(chain):
    steps = json.loads((chain.fits / "fitted_on.json").read_text())["steps"]
    for spoiled in ({"role": "peeked"}, {"step": ""}, {"task": "no_such_task"}, {"n_subjects": 1}):
        folder = chain.folder("fits")
        (folder / "fitted_on.json").write_text(json.dumps({"steps": [{**steps[0], **spoiled}]}))
        assert proved(chain.with_(fits=folder))[0].verdict == "fail", spoiled


def test_a_choice_may_rest_on_tuning_or_on_all_of_development(chain):
    tuning = usable_subjects(chain, "mortality_365d", "tuning")
    development = usable_subjects(chain, "mortality_365d", "train", "tuning")
    for subjects in (tuning, development):
        assert proved(chain.fitted(("folds", "mortality_365d", subjects, "chosen")))[0].verdict == "ok"
    assert proved(chain.fitted(("logistic", "mortality_365d", tuning, "fitted")))[0].verdict == "fail"
