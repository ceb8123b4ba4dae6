"""Finding nodes again in records whose future was deleted: the proof that no trigger looks ahead."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehr_assets.meds.reading import EVENT_SCHEMA, scan_events
from ehr_assets.nodes.frames import read_nodes, write_parquet
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes

_COMPARED = ["node_id", "subject_id", "time", "trigger", "indication"]


@dataclass(frozen=True)
class RecomputedNodes:
    """Counts. `changed`: nodes that differ, are missing or are new once the future is deleted."""

    subjects: int
    nodes: int
    changed: int

    @property
    def ok(self) -> bool:
        return self.changed == 0


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
    before = _up_to_cut(nodes, cuts)
    same = before.join(again, on=_COMPARED, how="inner", nulls_equal=True).height
    return RecomputedNodes(cuts.height, before.height, before.height + again.height - 2 * same)


def _up_to_cut(nodes: pl.DataFrame, cuts: pl.DataFrame) -> pl.DataFrame:
    kept = nodes.join(cuts, on="subject_id").filter(pl.col("time") <= pl.col("cut"))
    return kept.select(_COMPARED).with_columns(pl.col("trigger").list.join("|"))
