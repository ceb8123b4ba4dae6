"""The dossier of a checkpoint: its closure as one JSON document. The page that shows it is `page.py`'s.

format, statement   what this is, and what it does not claim
of                  asset, data version, dataset, run and times of the checkpoint
raw_files           every raw file: table, bytes, sha256
rows                of every raw table: rows read, accepted, quarantined; reasons by cohort
datasets            every dataset of the closure, inputs first: hashes, code, config, seed, checks, overrides
overrides           every check that was passed over on the way
scores              the metrics of whole tasks
columns             MEDS column → raw columns, of every MEDS frame
packages            lock hash → name==version, null where it was not kept
runs                run → the overrides of specs it ran with, null where they were not kept
shown_in            verdicts and reports it reached
acts                lines of the audit log about it: promotions, rollbacks, failed checks
subjects            how many it was fitted on, and the hash of their ids; never an id
conditions          of every training, what its rounding depends on: processes, threads, device
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.closure import Closure, Key, Node, file_of
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.hashing import settings_hash
from ehr_assets.lineage.names import asset_and_partition
from ehr_assets.lineage.provenance import read_packages, read_run
from ehr_assets.reports.small_cells import masked

FORMAT = 1
STATEMENT = (
    "This document supports audit requirements. It states what was recorded when each dataset was made; it "
    "is no certificate, and claims compliance with no law, standard or guideline."
)
RAW = "raw_tables"

Checks = Mapping[Key, Sequence[Mapping[str, Any]]]
"""Dataset → its newest check results: check, passed (None: no result), severity, time, run_id."""

Columns = Mapping[str, Mapping[str, Sequence[str]]]
"""Asset → column → the columns it can come from, as ``asset: column``."""


def dossier(
    store: DatasetStore, closure: Closure, checks: Checks, columns: Columns, model: str | None = None
) -> dict[str, Any]:
    """The document: plain values, ready for JSON.

    Args:
        model: the registered model version, if it is known.
    """
    itself = closure.itself.manifest
    assert itself is not None
    manifests = [n.manifest for n in closure.nodes if n.manifest]
    runs = sorted({m.run_id for m in manifests if m.run_id})
    records = {run: read_run(store.home, run) for run in runs}
    return {
        "format": FORMAT,
        "statement": STATEMENT,
        "of": {
            "asset": itself.asset,
            "data_version": itself.data_version,
            "dataset": closure.itself.dataset,
            "model": model,
            "code_version": itself.code_version,
            "git_revision": itself.git_revision,
            "lock_hash": itself.lock_hash,
            "seed": itself.seed,
            "run_id": itself.run_id,
            "started_at": itself.started_at.isoformat(),
            "committed_at": itself.committed_at.isoformat(),
        },
        "raw_files": [row for n in closure.nodes for row in _raw_files(store, n)],
        "rows": [row for n in closure.nodes if (row := _rows(n))],
        "datasets": [_dataset(closure, n, checks.get(n.key, ())) for n in closure.nodes],
        "overrides": list(dict.fromkeys(line for m in manifests for line in m.overrides)),
        "scores": [row for n in closure.nodes for row in _scores(store, n)],
        "columns": {
            asset: {c: list(names) for c, names in found.items()} for asset, found in columns.items()
        },
        "packages": {m.lock_hash: read_packages(store.home, m.lock_hash) for m in manifests},
        "runs": {run: r and {"overrides": r.overrides, "specs": r.specs} for run, r in records.items()},
        "shown_in": [_shown(store, n) for n in closure.shown_in],
        "acts": _acts(store, closure),
        "subjects": [row for n in closure.nodes if (row := _fitted_on(store, n))],
        "conditions": {n.asset: found for n in closure.nodes if (found := training_conditions(store, n))},
    }


def unchanging(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a document follows from contents alone: two makings of equal contents agree in it."""
    fixed = (
        *("asset", "side", "data_version", "code_version", "inputs", "config", "seed", "overrides"),
        "row_counts",
    )
    return {
        "format": FORMAT,
        "of": {k: document["of"][k] for k in ("asset", "data_version", "code_version", "seed")},
        **{k: document[k] for k in ("raw_files", "rows", "overrides", "scores", "columns", "subjects")},
        "datasets": [
            {k: d[k] for k in fixed} | {"files": [f for f in d["files"] if not f["volatile"]]}
            for d in document["datasets"]
        ],
    }


def problems(document: Mapping[str, Any]) -> list[str]:
    """What an auditor should be told first: gone datasets, and checks that failed or never ran."""
    found = [f"{d['asset']}: its dataset is gone." for d in document["datasets"] if not d["present"]]
    for d in document["datasets"]:
        for c in d["checks"]:
            if c["passed"] is None:
                found.append(f"{d['asset']}: check {c['check']} has no result for this data version.")
            elif not c["passed"] and c["severity"] == "error":
                found.append(f"{d['asset']}: check {c['check']} failed.")
    return found


def _dataset(closure: Closure, node: Node, checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    m = node.manifest
    return {
        "asset": node.asset,
        "side": node.side,
        "data_version": node.data_version,
        "dataset": node.dataset,
        "present": m is not None,
        "inputs": [{"asset": n.asset, "data_version": n.data_version} for n in closure.inputs(node)],
        "code_version": m.code_version if m else None,
        "git_revision": m.git_revision if m else None,
        "lock_hash": m.lock_hash if m else None,
        "config": m.config if m else {},
        "config_sha256": settings_hash(m.config) if m else None,
        "seed": m.seed if m else None,
        "overrides": m.overrides if m else [],
        "run_id": m.run_id if m else None,
        "started_at": m.started_at.isoformat() if m else None,
        "committed_at": m.committed_at.isoformat() if m else None,
        "row_counts": m.row_counts if m else {},
        "files": [f.model_dump() for f in m.files] if m else [],
        "checks": [dict(c) for c in checks],
    }


def _raw_files(store: DatasetStore, node: Node) -> list[dict[str, Any]]:
    """Those a simulator wrote lie in the dataset; of others it holds the inventory."""
    if not node.asset.endswith(f"/{RAW}") or node.manifest is None:
        return []
    cohort = node.asset.removesuffix(f"/{RAW}")
    if listed := file_of(store, node, "inventory.json"):
        entries = json.loads(listed.read_text(encoding="utf-8"))
    else:
        entries = [
            {"table": Path(f.path).stem, "file": f.path, "bytes": f.bytes, "sha256": f.sha256}
            for f in node.manifest.files
        ]
    return [{"cohort": cohort, **{k: e[k] for k in ("table", "file", "bytes", "sha256")}} for e in entries]


def _rows(node: Node) -> dict[str, Any] | None:
    stats = node.manifest.stats if node.manifest else {}
    if not node.asset.endswith("/meds_events") or "tables" not in stats:
        return None
    fields = ("read", "accepted", "quarantined", "events")
    return {
        "cohort": node.asset.rpartition("/")[0],
        "asset": node.asset,
        **{name: stats.get(name) for name in ("read", "accepted", "quarantined", "subjects", "events")},
        "reasons": stats.get("reasons", {}),
        "tables": [{"table": t, **{f: row.get(f) for f in fields}} for t, row in stats["tables"].items()],
    }


def _scores(store: DatasetStore, node: Node) -> list[dict[str, Any]]:
    path = file_of(store, node, "metrics.parquet") if node.side == "scores" else None
    if path is None or not asset_and_partition(node.asset)[0].endswith("/probe_metrics"):
        return []
    keep = ("cohort", "task", "probe", "split", "metric", "value", "ci_low", "ci_high", "n", "n_positive")
    whole = pl.col("indication").is_null() & pl.col("subgroup").is_null()
    rows = pl.read_parquet(path).filter(whole).select(keep).sort("cohort", "task", "split", "metric", "probe")
    few = ("n", "n_positive")
    shown = (
        {**row, **{k: None if row[k] is None else masked(row[k]) for k in few}} for row in rows.to_dicts()
    )
    return [{"asset": node.asset, **row} for row in shown]


def _shown(store: DatasetStore, node: Node) -> dict[str, Any]:
    judged = {}
    if file := file_of(store, node, "verdict.json"):
        found = json.loads(file.read_text(encoding="utf-8"))
        judged = {k: found.get(k) for k in ("recipe", "may_be_promoted", "reasons")}
    return {"asset": node.asset, "data_version": node.data_version, "dataset": node.dataset, **judged}


def _acts(store: DatasetStore, closure: Closure) -> list[dict[str, Any]]:
    """What the audit log tells of the datasets of a closure, oldest first."""
    versions = {n.data_version for n in closure.nodes}
    told = ("promoted", "rolled_back", "check_failed")
    return [
        {"sequence": e.sequence, "time": e.time, "by": e.by, "action": e.action, "facts": dict(e.facts)}
        for e in AuditLog(store.home).entries()
        if e.action in told and versions & {e.facts.get("data_version"), e.facts.get("checkpoint")}
    ]


def _fitted_on(store: DatasetStore, node: Node) -> dict[str, Any] | None:
    file = file_of(store, node, "fitted_on.json")
    if file is None:
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    wanted = ("split", "n_subjects", "subjects_sha256")
    return {"asset": node.asset, **{k: found.get(k) for k in wanted}}


def training_conditions(store: DatasetStore, node: Node) -> dict[str, Any]:
    """What a training's rounding depended on besides its recipe, as it wrote it down; else empty.

    Equal inputs, code and settings give equal weights only under equal conditions.
    """
    file = file_of(store, node, "resume/state.json")
    return json.loads(file.read_text(encoding="utf-8")).get("conditions", {}) if file else {}


def moment(seconds: float | None) -> str | None:
    """A time as the document gives it: ISO, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
