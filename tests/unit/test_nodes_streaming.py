"""The pass over the events: its bytes do not depend on chunks, files, order of work or number of workers."""

import os
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nodes_support import ANCHOR, all_labels, at, event, event_frame, write_meds

from ehr_assets.fanout import ONE_WORKER, Machine
from ehr_assets.meds import reading
from ehr_assets.nodes import labels as labelling
from ehr_assets.nodes import stream
from ehr_assets.nodes.labels import label_nodes
from ehr_assets.nodes.stream import NEVER, NOT_YET, Axis, Chunk, Times, read_chunks
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes

SPEC = NodesSpec.model_validate({"task_set": "t", "triggers": [ANCHOR]})
TOLD = {"category": "c", "description": "d", "horizon_days": 30}
TASKS = TaskSet.model_validate(
    {
        "derived": {
            "doubled": {"kind": "ratio", "codes": ["^LAB$"], "by": 2, "against": "node"},
            "line": {"kind": "new_line", "codes": ["^(LAB|OUTCOME)$"], "gap_days": 20},
        },
        "tasks": [
            {**TOLD, "name": "plain", "outcome": {"codes": ["^OUTCOME$"]}},
            {**TOLD, "name": "doubled", "outcome": {"derived": "doubled"}},
            {**TOLD, "name": "line", "outcome": {"derived": "line"}},
            {**TOLD, "name": "mean", "kind": "regression", "target": {"codes": ["^LAB$"], "take": "mean"}},
        ],
    }
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Sixty subjects in three splits, two files in one of them; nodes found in them."""
    folder, rng = tmp_path_factory.mktemp("record"), np.random.default_rng(3)
    rows = [
        event(subject, at(float(rng.uniform(0, 300))), code, float(rng.uniform(1, 9)))
        for subject in range(60)
        for code in ("ANCHOR", "ANCHOR", "OUTCOME", "LAB", "LAB", "LAB", "VISIT")
        for _ in range(2)
    ]
    files = {"train/0": (0, 20), "train/1": (20, 40), "tuning/0": (40, 50), "held_out/0": (50, 60)}
    meds = write_meds(folder / "meds", rows)
    (meds / "data/train/0.parquet").unlink()
    for name, (first, last) in files.items():
        path = meds / f"data/{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        # In turn, so that the subjects of the splits lie between one another.
        mine = [r for r in rows if first <= (7 * r["subject_id"]) % 60 < last]
        pq.write_table(event_frame(mine).to_arrow(), path)
    (folder / "nodes").mkdir()
    find_nodes(SPEC, "c", meds, folder / "nodes")
    return folder


def files_of(record, out, machine=ONE_WORKER):
    out.mkdir()
    label_nodes(TASKS, SPEC, record / "nodes", record / "meds", out, machine=machine)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_labelling_imports_no_pandas(record, tmp_path):
    """Every worker would: pyarrow imports it for most of what it does with numpy."""
    script = f"""if True:
        import sys
        from pathlib import Path
        from ehr_assets.nodes.labels import label_nodes
        from test_nodes_streaming import SPEC, TASKS
        label_nodes(TASKS, SPEC, Path({str(record / "nodes")!r}), Path({str(record / "meds")!r}), Path.cwd())
        assert "pandas" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=_with_these_tests())


def _with_these_tests() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_chunks_files_and_workers_leave_no_trace(record, tmp_path, monkeypatch):
    before = files_of(record, tmp_path / "before")
    assert set(before) >= {"labels/plain.parquet", "meds/mean.parquet", "tasks.json", "counts.parquet"}
    assert not any("strips" in name for name in before), "what is only used on the way is gone"
    labels = all_labels(tmp_path / "before")
    assert labels["boolean_value"].drop_nulls().n_unique() == 2
    plain = labels.filter(task="plain").select("subject_id", "prediction_time")
    assert plain.rows() == sorted(plain.rows())

    monkeypatch.setattr(reading, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(reading, "_READ_ROWS", 3)
    assert files_of(record, tmp_path / "small") == before
    monkeypatch.setattr(stream, "_LONGEST", 1)
    assert files_of(record, tmp_path / "lifetimes") == before
    monkeypatch.setattr(labelling, "_ROWS_PER_WORKER", 1)
    assert files_of(record, tmp_path / "workers", Machine(workers=2)) == before


def test_nodes_without_a_record_are_censored(record, tmp_path):
    meds = tmp_path / "meds"
    shutil.copytree(record / "meds", meds)
    (meds / "data/tuning/0.parquet").unlink()
    (tmp_path / "out").mkdir()
    stats = label_nodes(TASKS, SPEC, record / "nodes", meds, tmp_path / "out")
    labels = all_labels(tmp_path / "out").filter(task="plain")
    gone = labels.filter((7 * pl.col("subject_id") % 60).is_between(40, 49))
    assert gone.height > 0
    assert set(gone["reason"]) == {"censored"}
    assert set(gone["duration_days"]) == {0.0}
    assert labels.height == stats["tasks"]["plain"]["n"] == stats["nodes"]


def test_a_chunk_holds_whole_subjects(record, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 2000)
    monkeypatch.setattr(reading, "_READ_ROWS", 5)
    codes = ("MEDS_DEATH", "MEDS_BIRTH", "LAB")
    chunks = list(read_chunks(record / "meds/data/train/0.parquet", codes, (), ()))
    assert len(chunks) > 2
    ids = np.concatenate([chunk.subject_ids for chunk in chunks])
    assert len(ids) == len(np.unique(ids)) == 20
    assert {len(c.rows_of(stream.Events((2,)))) for c in chunks} <= {6 * n for n in range(1, 20)}


@pytest.mark.parametrize("moment", [-(10**17), -5, 0, 3, 4, 10**17])
def test_times_of_one_subject_are_never_anothers(moment):
    first, last = np.array([0, -(10**15), 0, 5]), np.array([10, 10**15, -1, 5])  # the third has no events
    axis = Axis(first, last)
    subject, time = np.array([0, 0, 1, 1, 3]), np.array([0, 10, -(10**15), 10**15, 5])
    times = Times(axis, subject, time)
    asked = np.arange(4)
    after = times.first_after(asked, np.full(4, moment)).tolist()
    until = times.last_until(asked, np.full(4, moment)).tolist()
    for who in asked:
        mine = time[subject == who]
        assert after[who] == min([t for t in mine if t > moment], default=NEVER)
        assert until[who] == max([t for t in mine if t <= moment], default=NOT_YET)


def test_events_out_of_order_in_a_file_are_put_in_order():
    table = pa.table(
        {
            "subject_id": [1, 1, 1],
            "time": pa.array([at(3), at(1), at(2)], pa.timestamp("us")),
            "code": pa.array(["LAB", "LAB", "MEDS_DEATH"]).dictionary_encode(),
            "numeric_value": pa.array([3.0, 1.0, None], pa.float32()),
        }
    )
    chunk = Chunk(table, ("MEDS_DEATH", "MEDS_BIRTH", "LAB"), ())
    assert chunk.value[chunk.rows_of(stream.Events((2,)))].tolist() == [1.0, 3.0]
