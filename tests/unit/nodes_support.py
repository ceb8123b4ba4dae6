"""Small MEDS datasets for the tests of nodes and leakage: a list of events in, a directory out."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from ehr_assets.meds.reading import DEATHS_IN_DOUBT, EVENT_SCHEMA
from ehr_assets.nodes.frames import read_labels, read_nodes, tasks_of, write_parquet
from ehr_assets.nodes.labels import label_nodes
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes

DAY0 = datetime(2020, 1, 1)
US = timedelta(microseconds=1)


def at(days: float = 0, hours: float = 0, us: int = 0) -> datetime:
    return DAY0 + timedelta(days=days, hours=hours, microseconds=us)


def event(
    subject: int, time: datetime | None, code: str, value: float | None = None,
    available: datetime | None = None, section: str = "observations",
) -> dict[str, Any]:  # fmt: skip
    return {
        "subject_id": subject, "time": time, "code": code, "numeric_value": value, "text_value": None,
        "available_time": available or time, "section": section,
    }  # fmt: skip


def random_records(
    hours: st.SearchStrategy[int], codes: list[str], values: list[float], most: int
) -> st.SearchStrategy[list[dict[str, Any]]]:
    """At most so many events of three subjects, some on the edge of an hour, some known 30 hours late."""
    one = st.builds(
        lambda subject, hour, us, code, value, late: event(
            subject,
            at(hours=hour, us=us),
            code,
            value,
            available=at(hours=hour + late, us=us),
            section="drugs" if value > 1 else "notes",
        ),
        st.integers(1, 3),
        hours,
        st.sampled_from([0, 0, 0, 1, -1]),
        st.sampled_from(codes),
        st.sampled_from(values),
        st.sampled_from([0, 0, 30]),
    )
    return st.lists(one, max_size=most)


def event_frame(events: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(events, schema=EVENT_SCHEMA, orient="row").sort(
        "subject_id", "time", "available_time", "section", "code", "numeric_value"
    )


def write_meds(folder: Path, events: list[dict[str, Any]], split: str = "train") -> Path:
    """A meds_events directory holding `events` in one split."""
    frame = event_frame(events)
    (folder / "data" / split).mkdir(parents=True)
    (folder / "metadata").mkdir()
    pq.write_table(frame.to_arrow(), folder / "data" / split / "0.parquet")
    codes = frame.select("code").unique().sort("code")
    pq.write_table(codes.to_arrow(), folder / "metadata" / "codes.parquet")
    return folder


def nodes_of(
    folder: Path, triggers: list[dict[str, Any]], events: list[dict[str, Any]], **spec: Any
) -> pl.DataFrame:
    """The nodes that `triggers` (as in a cohort's YAML) find in `events`."""
    folder.mkdir(exist_ok=True)
    meds_dir, out = write_meds(folder / "meds", events), folder / "nodes"
    out.mkdir()
    find_nodes(NodesSpec.model_validate({"task_set": "t", "triggers": triggers, **spec}), "c", meds_dir, out)
    return read_nodes(out)


ANCHOR = {"name": "anchor", "kind": "event", "codes": ["^ANCHOR$"]}
TOLD = {"category": "c", "description": "d"}  # what a task must say beside its rules


def labels_of(
    folder: Path, tasks: list[dict[str, Any]], events: list[dict[str, Any]],
    triggers: list[dict[str, Any]] | None = None, follow_up: dict[str, Any] | None = None,
    in_doubt: list[int] | None = None, **settings: Any,
) -> tuple[pl.DataFrame, dict[str, Any]]:  # fmt: skip
    """The labels and the stats, for `tasks` at the nodes that `triggers` (the code ANCHOR) find."""
    spec = NodesSpec.model_validate(
        {"task_set": "t", "triggers": triggers or [ANCHOR], "follow_up": follow_up or {}}
    )
    task_set = TaskSet.model_validate({"tasks": [{**TOLD, **t} for t in tasks], **settings})
    folder.mkdir(exist_ok=True)
    meds_dir = write_meds(folder / "meds", events)
    for name in ("nodes", "labels"):
        (folder / name).mkdir()
    if in_doubt:
        write_parquet(pa.table({"subject_id": pa.array(in_doubt, pa.int64())}), meds_dir / DEATHS_IN_DOUBT)
    find_nodes(spec, "c", meds_dir, folder / "nodes")
    stats = label_nodes(task_set, spec, folder / "nodes", meds_dir, folder / "labels")
    return all_labels(folder / "labels"), stats


def all_labels(folder: Path) -> pl.DataFrame:
    """The labels of all tasks, by task in the order of the task file, with a column `task`."""
    frames = [read_labels(folder, t["name"]).with_columns(task=pl.lit(t["name"])) for t in tasks_of(folder)]
    return pl.concat(frames)
