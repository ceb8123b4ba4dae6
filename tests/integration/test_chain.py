"""The whole chain on the embedded cohort: it runs, it is kept, it is followed, it is guarded.

The tests stand in an order: later ones break things that earlier ones need.
"""

import contextlib
import json
import re
import sqlite3
import subprocess
import time

import lineage_of_chain
import polars as pl
import pytest
from conftest import BIN

CHAIN = [
    "synthetic_oncology/raw_tables",
    "synthetic_oncology/latent_truth",
    "synthetic_oncology/subject_splits",
    "synthetic_oncology/meds_events",
    "synthetic_oncology/decision_nodes",
    "synthetic_oncology/task_labels",
    "synthetic_oncology/leak_audit",
    "synthetic_oncology/baseline_metrics",
    "synthetic_oncology/oracle_metrics",
    "synthetic_oncology_tagged/tokenizer",
    "synthetic_oncology_tagged/token_corpus",
    "smb_sft_demo/checkpoint",
    "smb_sft_demo/node_embeddings",
    "smb_sft_demo/control_embeddings",
    "smb_sft_demo/leak_audit",
    "smb_sft_demo/probe_metrics",
    "smb_sft_demo/control_metrics",
    "synthetic_oncology/comparison",
    "synthetic_oncology/verdict",
    "synthetic_oncology/report",
    "synthetic_oncology/profile",
]


def test_the_demo_ends_with_a_table_and_the_reports_path(installation):
    said = installation.demo_said
    report = installation.path("synthetic_oncology/report") / "report.html"
    assert report.exists()
    assert installation.ehr("show", "synthetic_oncology/report", "--path").strip() == str(report.parent)
    assert str(report) in said
    assert "mortality_365d" in said


def test_everything_is_fresh_and_a_second_demo_runs_nothing(installation):
    states = installation.states()
    assert {a: states[a] for a in CHAIN} == dict.fromkeys(CHAIN, "fresh")
    assert f"All {len(CHAIN)} assets are fresh; nothing to run." in installation.ehr("demo")


def test_manifests_chain_from_the_pages_to_the_raw_tables(installation):
    seen, todo = {}, ["synthetic_oncology/report", "synthetic_oncology/profile"]
    while todo:
        name = todo.pop()
        manifest = installation.manifest(name)
        seen[name] = manifest
        assert manifest.code_version
        assert manifest.run_id
        assert manifest.lock_hash
        todo += [i.asset for i in manifest.inputs if i.asset not in seen]
    assert set(seen) == set(CHAIN)
    for name, manifest in seen.items():
        for used in manifest.inputs:
            assert used.data_version == seen[used.asset].data_version, name


def test_every_raw_row_is_accepted_or_quarantined(installation):
    accounting = pl.read_parquet(installation.path("synthetic_oncology/meds_events") / "accounting.parquet")
    raw = installation.path("synthetic_oncology/raw_tables") / "tables"
    for table, read, accepted, quarantined in accounting.select(
        "table", "read", "accepted", "quarantined"
    ).iter_rows():
        assert accepted + quarantined == read, table
        lines = (raw / f"{table}.csv").read_text(encoding="utf-8").count("\n")
        assert read == lines - 1, table


def test_two_ranks_trained_and_streamed_to_mlflow_and_dagster(installation):
    checkpoint = installation.path("smb_sft_demo/checkpoint")
    history = [json.loads(line) for line in (checkpoint / "history.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in history if "loss" in row]
    with sqlite3.connect(installation.home / "mlflow.db") as db:
        logged = {(key, step) for key, step in db.execute("SELECT key, step FROM metrics")}
        tags = dict(db.execute("SELECT key, value FROM tags"))
        status = {row[0] for row in db.execute("SELECT status FROM runs")}
    assert {(name, s) for s in steps for name in ("train/loss", "train/sft", "train/lr")} <= logged
    assert any(key == "speed/tokens_per_s" for key, _ in logged)
    assert status == {"FINISHED"}
    assert tags["dagster.run_id"] == installation.manifest("smb_sft_demo/checkpoint").run_id
    (events,) = (installation.home / "dagster" / "history" / "runs").glob("????????-*.db")
    with sqlite3.connect(events) as db:
        log = " ".join(row[0] for row in db.execute("SELECT event FROM event_logs"))
    assert "launching 2 process(es)" in log
    assert re.search(r"loss [\d.]+, learning rate [\d.e+-]+, [\d,]+ tokens/s", log)


def test_the_checkpoint_loads_with_plain_peft_and_transformers(installation):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = installation.path("smb_sft_demo/checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder / "backbone")
    model = PeftModel.from_pretrained(base, str(folder))
    ids = tokenizer("<conditions> malignant neoplasm", return_tensors="pt")
    assert torch.isfinite(model(**ids).logits).all()


def test_the_model_card_leads_back(installation):
    card = (installation.path("smb_sft_demo/checkpoint") / "model_card.md").read_text()
    manifest = installation.manifest("smb_sft_demo/checkpoint")
    assert f"Dagster run: {manifest.run_id}\n" in card
    assert f"code version: {manifest.code_version}\n" in card
    assert f"git revision: {manifest.git_revision or 'none'}\n" in card


def test_the_report_has_its_table_and_figures_and_no_subject(installation):
    page = (installation.path("synthetic_oncology/report") / "report.html").read_text()
    assert len(re.findall(r"<svg|<img", page)) >= 3
    assert "Death of any cause" in page
    splits = installation.path("synthetic_oncology/subject_splits") / "subject_splits.parquet"
    text = re.sub(r"<svg.*?</svg>|data:[^\"']*", "", page, flags=re.DOTALL)
    words = set(re.findall(r"\d+", text))
    ids = {str(i) for i in pl.read_parquet(splits)["subject_id"]}
    assert not {i for i in ids & words if len(i) > 4}


def test_no_subject_id_in_any_log_or_store_of_dagster_and_mlflow(installation):
    splits = installation.path("synthetic_oncology/subject_splits") / "subject_splits.parquet"
    ids = [str(i).encode() for i in pl.read_parquet(splits)["subject_id"]]
    assert min(map(len, ids)) >= 5, "ids too short to tell from other numbers"
    stores = [*installation.home.glob("dagster/**/*"), installation.home / "mlflow.db"]
    stores += [*installation.home.glob("audit/*"), *installation.home.glob("provenance/runs/*")]
    assert sum(s.stat().st_size for s in stores if s.is_file()) > 1_000_000, "the run left its logs here"
    for store in (s for s in stores if s.is_file() and not s.name.endswith(("-wal", "-shm"))):
        words = {
            n for text in texts(store) for n in re.findall(rb"(?<![\d.])\d+(?![\d.])", HASHES.sub(b" ", text))
        }
        assert not words & set(ids), store.name


HASHES = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{12,}|base64,[A-Za-z0-9+/=]+")
"""Ids of runs, hashes and pictures hold any digits."""


def texts(store):
    """What a file holds. A database value by value: in its file they stand without anything between them."""
    content = store.read_bytes()
    if not content.startswith(b"SQLite format 3"):
        return [content]
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        database.text_factory = bytes
        names = [
            name.decode() for (name,) in database.execute("select name from sqlite_master where type='table'")
        ]
        rows = (row for name in names for row in database.execute(f'select * from "{name}"'))
        return [value for row in rows for value in row if isinstance(value, bytes)]


def test_an_auditor_can_go_from_the_checkpoint_to_the_raw_rows_and_back(installation):
    splits = installation.path("synthetic_oncology/subject_splits") / "subject_splits.parquet"
    lineage_of_chain.tells_where_it_comes_from(installation)
    lineage_of_chain.makes_a_dossier_without_a_subject(
        installation, map(str, pl.read_parquet(splits)["subject_id"])
    )
    lineage_of_chain.finds_a_changed_byte(installation)
    lineage_of_chain.knows_whom_it_was_trained_on(installation, pl.read_parquet(splits))
    lineage_of_chain.can_be_made_again(installation)
    lineage_of_chain.is_all_in_the_audit_log(installation)


def test_one_recipe_value_reruns_that_recipes_descendants_only(installation):
    before = {a: installation.manifest(a).run_id for a in CHAIN}
    recipe = {**installation.overrides["recipes/smb_sft_demo"], "probe.bootstrap": 21}
    touched = installation.changed({"recipes/smb_sft_demo": recipe})
    said = touched.ehr("status")
    assert touched.states(said)["smb_sft_demo/probe_metrics"] == "stale"
    assert "its spec changed" in said
    touched.ehr("demo")
    after = {a: touched.manifest(a).run_id for a in CHAIN}
    assert {a for a in CHAIN if before[a] != after[a]} == {
        "smb_sft_demo/probe_metrics",
        "smb_sft_demo/control_metrics",
        "synthetic_oncology/comparison",
        "synthetic_oncology/report",
    }
    installation.overrides = touched.overrides


def test_one_asset_alone_gives_the_same_content(installation):
    """A trained checkpoint too; and what was made from it stays fresh."""
    alone = [
        "synthetic_oncology_tagged/token_corpus",
        "synthetic_oncology/latent_truth",
        "smb_sft_demo/checkpoint",
    ]
    for asset in alone:
        before = installation.manifest(asset)
        installation.run("dg", "launch", "--assets", f"key:{asset}")
        after = installation.manifest(asset)
        assert after.run_id != before.run_id, asset
        assert after.data_version == before.data_version, asset
    states = installation.states()
    assert {a: states[a] for a in CHAIN} == dict.fromkeys(CHAIN, "fresh")


def test_a_training_that_was_killed_is_taken_up_by_the_next_command(installation):
    """kill -9 of the command in mid-training; the checkpoint is that of a training that nobody killed."""
    phases = [{"name": "sft", "objectives": {"sft": 1.0}, "epochs": 4, "steps": None}]
    recipe = {**installation.overrides["recipes/smb_sft_demo"], "phases": phases, "engine.keep.every": 2}
    longer = installation.changed({"recipes/smb_sft_demo": recipe})
    command = subprocess.Popen([BIN / "ehr", "demo"], env=longer.env)
    try:
        until = time.monotonic() + 300
        while not (states := list(longer.home.glob("work/smb_sft_demo/checkpoint/*/step-*[0-9]"))):
            assert command.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        command.kill()
        command.wait()
    (work,) = {state.parent for state in states}
    assert work.exists()
    longer.ehr("demo")
    with sqlite3.connect(f"file:{longer.home}/mlflow.db?mode=ro", uri=True) as runs:
        ended = [status for (status,) in runs.execute("select status from runs order by start_time")]
    assert ended[-2:] == ["KILLED", "FINISHED"]
    assert [p.name for p in work.iterdir()] == ["committed"]
    resumed = longer.manifest("smb_sft_demo/checkpoint")
    assert "Taken up after step" in events(longer)
    longer.run("dg", "launch", "--assets", "key:smb_sft_demo/checkpoint")
    again = longer.manifest("smb_sft_demo/checkpoint")
    assert again.run_id != resumed.run_id
    assert again.data_version == resumed.data_version
    installation.overrides = longer.overrides


def events(installation):
    """All that Dagster's runs have said."""
    said = ""
    for file in (installation.home / "dagster" / "history" / "runs").glob("????????-*.db"):
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
            said += " ".join(row[0] for row in db.execute("SELECT event FROM event_logs"))
    return said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "--cohort", "synthetic_oncolgy"), "Did you mean 'synthetic_oncology'?"),
        (("run", "--cohort", "synthetic_oncology", "--recipe", "smb_sft"), "There is no recipe"),
        (("show", "synthetic_oncology/meds"), "There is no asset"),
    ],
)
def test_unknown_names_give_one_clear_error(installation, args, said):
    answer = installation.ehr(*args, fails=True)
    assert said in answer
    assert "Traceback" not in answer


def test_a_misspelt_override_is_named(installation):
    answer = installation.changed({"recipes/smb_sft_demo": {"optimiser.lr": 1}}).ehr("status", fails=True)
    assert "optimiser: unknown key. Did you mean 'optimizer'?" in answer
    assert "Traceback" not in answer


def test_a_missing_raw_directory_is_one_clear_error(installation):
    answer = installation.ehr("run", "--cohort", "mimic_iv", fails=True)
    assert "EHR_MIMIC_IV_ROOT is not set" in answer
    assert "Traceback" not in answer


def test_a_descendant_is_refused_after_its_upstreams_check_failed_in_an_earlier_run(installation):
    # A threshold no extraction can meet: the check fails, the run stops, the dataset stays.
    cohort = {**installation.overrides["cohorts/synthetic_oncology"], "quarantine_threshold": 0}
    strict = installation.changed({"cohorts/synthetic_oncology": cohort})
    strict.run("dg", "launch", "--assets", "key:synthetic_oncology/meds_events", fails=True)
    assert strict.states()["synthetic_oncology/meds_events"] == "failed check"
    answer = strict.run("dg", "launch", "--assets", "key:synthetic_oncology/decision_nodes", fails=True)
    assert "quarantine_below_threshold: failed" in answer

    reason = "trying the override"
    overridden = strict.changed(EHR_ALLOW_FAILED_CHECKS=reason)
    overridden.run("dg", "launch", "--assets", "key:synthetic_oncology/decision_nodes")
    (line,) = strict.manifest("synthetic_oncology/decision_nodes").overrides
    assert reason in line
    assert "quarantine_below_threshold" in line


def test_one_altered_byte_is_refused_and_repaired_by_a_rebuild(installation):
    installation.ehr("demo")
    path = installation.path("smb_sft_demo/node_embeddings") / "embeddings.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    probe = ("dg", "launch", "--assets", "key:smb_sft_demo/probe_metrics")
    answer = installation.run(*probe, fails=True)
    assert "altered after it was committed" in answer
    assert "key:smb_sft_demo/node_embeddings" in answer
    installation.run("dg", "launch", "--assets", "key:smb_sft_demo/node_embeddings")
    installation.run(*probe)
    assert installation.states()["synthetic_oncology/report"] == "fresh"
