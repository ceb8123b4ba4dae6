"""What `test_chain.py` asks of the lineage of the demo's checkpoint, by the commands an auditor types."""

import json
import re
import subprocess

import polars as pl
from conftest import BIN

from ehr_assets.lineage.audit_log import AuditLog

MADE_FROM = {
    "synthetic_oncology/raw_tables",
    "synthetic_oncology/subject_splits",
    "synthetic_oncology/meds_events",
    "synthetic_oncology/decision_nodes",
    "synthetic_oncology_tagged/tokenizer",
    "synthetic_oncology_tagged/token_corpus",
}
NUMBERS_OF_OTHERS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{10,}|\d{8}T\d+Z|<svg.*?</svg>", re.DOTALL)
"""Ids of runs, hashes, times and pictures hold any digits."""


def tells_where_it_comes_from(installation):
    """The JSON of a registered version leads back to the raw files, with all that is between."""
    d = json.loads(installation.ehr("lineage", "smb_sft_demo@candidate", "--format", "json"))
    sides = {s["asset"]: s["side"] for s in d["datasets"]}
    assert {a for a, side in sides.items() if side == "made_from"} == MADE_FROM
    assert sides["smb_sft_demo/probe_metrics"] == "scores"
    assert d["of"]["model"] == "smb_sft_demo/1"
    assert {f["table"] for f in d["raw_files"]} >= {"person", "measurement", "note"}
    assert d["rows"][0]["read"] == d["rows"][0]["accepted"] + d["rows"][0]["quarantined"] > 0
    assert all(s["checks"] and s["code_version"] and s["git_revision"] is not None for s in d["datasets"])
    assert sum(c["passed"] for s in d["datasets"] for c in s["checks"]) > 50
    assert any(s["metric"] == "auroc" for s in d["scores"])
    columns = d["columns"]["synthetic_oncology/meds_events"]
    assert "synthetic_oncology/raw_tables: measurement.value_as_number" in columns["numeric_value"]
    (packages,) = d["packages"].values()
    assert any(p.startswith("torch==2.13.0") for p in packages)
    (settings,) = d["runs"].values()
    assert settings["overrides"] == installation.overrides


def makes_a_dossier_without_a_subject(installation, ids):
    """The asset, as the UI or a job makes it."""
    installation.run("dg", "launch", "--assets", "key:smb_sft_demo/dossier")
    page = (installation.path("smb_sft_demo/dossier") / "lineage.html").read_text(encoding="utf-8")
    assert page.count("<rect") >= 10
    assert "supports audit requirements" in page
    assert not set(re.findall(r"\d+", NUMBERS_OF_OTHERS.sub(" ", page))) & set(ids)


def finds_a_changed_byte(installation):
    raw = installation.path("synthetic_oncology/raw_tables") / "tables" / "person.csv"
    before = raw.read_bytes()
    raw.write_bytes(before[:-2] + b"9\n")
    said = " ".join(installation.ehr("lineage", "verify", "smb_sft_demo/checkpoint", fails=True).split())
    assert "1 things differ" in said
    assert "synthetic_oncology/raw_tables, tables/person.csv: altered" in said
    raw.write_bytes(before)
    assert "are what was recorded" in installation.ehr("lineage", "verify")


def knows_whom_it_was_trained_on(installation, splits):
    for split, said in (("train", "trained on"), ("held_out", "scored on")):
        some = splits.filter(pl.col("split") == split)["subject_id"].to_list()
        answer = _asked(installation, some[0])
        # Who has no decision node is neither embedded nor scored.
        assert said in answer or split == "held_out"
        assert ("1 of 1 models are known to have been trained" in answer) is (split == "train")
        assert str(some[0]) not in answer


def _asked(installation, subject):
    command = [BIN / "ehr", "audit", "subject", "--cohort", "synthetic_oncology"]
    done = subprocess.run(
        command, input=f"{subject}\n", env=installation.env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def can_be_made_again(installation):
    """The events, that is: a second training would cost as much as the first."""
    said = " ".join(installation.ehr("reproduce", "synthetic_oncology/meds_events").split())
    assert "All 3 datasets came out with the content that was recorded." in said


def is_all_in_the_audit_log(installation):
    log = AuditLog(installation.home)
    assert log.verify().fault is None
    acts = [e.action for e in log.entries()]
    for action in ("run_started", "run_finished", "check_failed", "exported", "looked_up", "reproduced"):
        assert action in acts
    ended = next(e.facts for e in log.entries() if e.action == "run_finished")
    assert ended["status"] == "SUCCESS"
    assert len(ended["manifests"]) == 21
