"""Finding nodes again in records whose future was deleted: the proof that nothing about them looks ahead."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehr_assets.meds.reading import EVENT_SCHEMA, scan_events
from ehr_assets.nodes.flow import adds_up
from ehr_assets.nodes.frames import read_flow, read_nodes, read_subgroups, write_parquet
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes

_COMPARED = ["node_id", "subject_id", "time", "trigger", "indication"]


@dataclass(frozen=True)
class RecomputedNodes:
    """Counts. `changed`: nodes that differ, are missing or are new once the future is deleted.

    `subgroups_changed`: of those nodes, values of subgroups. `flow_adds_up`: what the steps of the flow took
    away and left agree with one another and with the nodes.
    """

    subjects: int
    nodes: int
    changed: int
    subgroups_changed: int
    flow_adds_up: bool

    @property
    def ok(self) -> bool:
        return self.changed == 0 and self.subgroups_changed == 0 and self.flow_adds_up


def nodes_without_future(
    spec: NodesSpec, cohort: str, nodes_dir: Path, meds_dir: Path, *, subjects: int = 200, seed: int = 0
) -> RecomputedNodes:
    """Cuts a sample of subjects' records at one of their nodes, finds the nodes again and compares.

    Only what had become known by the cut (available_time) is left; nodes up to the cut must be the same.
    """
    nodes = read_nodes(nodes_dir)
    cuts = (
        nodes.sample(fraction=1.0, shuffle=True, seed=seed)
        .unique("subject_id", keep="first", maintain_order=True)
        .head(subjects)
        .select("subject_id", pl.col("time").alias("cut"))
    )
    static = pl.col("time").is_null() & pl.col("available_time").is_null()
    kept = (
        scan_events(meds_dir)
        .join(cuts.lazy(), on="subject_id", how="inner", maintain_order="left")
        .filter(static | (pl.col("available_time") <= pl.col("cut")))
    )
    with tempfile.TemporaryDirectory() as folder:
        record, out = Path(folder) / "meds", Path(folder) / "nodes"
        (record / "data" / "train").mkdir(parents=True)
        (record / "metadata").mkdir()
        out.mkdir()
        write_parquet(
            kept.select(EVENT_SCHEMA.names()).collect().to_arrow(), record / "data" / "train" / "0.parquet"
        )
        shutil.copy(meds_dir / "metadata" / "codes.parquet", record / "metadata" / "codes.parquet")
        find_nodes(spec, cohort, record, out)
        again = _up_to_cut(read_nodes(out), cuts)
        groups_again = read_subgroups(out).join(again, on="node_id", how="semi")
    before = _up_to_cut(nodes, cuts)
    groups = read_subgroups(nodes_dir).join(before, on="node_id", how="semi")
    return RecomputedNodes(
        cuts.height,
        before.height,
        _differing(before, again),
        _differing(groups, groups_again),
        adds_up(read_flow(nodes_dir), nodes),
    )


def _differing(before: pl.DataFrame, again: pl.DataFrame) -> int:
    same = before.join(again, on=before.columns, how="inner", nulls_equal=True).height
    return before.height + again.height - 2 * same


def _up_to_cut(nodes: pl.DataFrame, cuts: pl.DataFrame) -> pl.DataFrame:
    kept = nodes.join(cuts, on="subject_id").filter(pl.col("time") <= pl.col("cut"))
    return kept.select(_COMPARED).with_columns(pl.col("trigger").list.join("|"))
