"""A future planted into records, and what is computed at the nodes before it: it must not have changed.

Deleting a future shows nothing where no future of the telling kind was recorded. So one is planted after each
sampled node: of every code that could matter one event that happens a microsecond later, and one that
happened before and became known a microsecond later; with extreme values, and one code nobody else has.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.contracts import DEATH
from ehr_assets.leakage.deletion import Features, record_of, rows_that_differ, write_record
from ehr_assets.leakage.findings import Finding
from ehr_assets.meds.reading import EVENT_SCHEMA, matching_codes, read_codes
from ehr_assets.nodes.frames import read_nodes
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes

GUARD = "planted_future_changes_nothing"
PLANTED = "PLANTED//a future that only one subject has"
MOST_CODES = 150
_EXTREME = 1e6
_LATE = pl.duration(microseconds=1, time_unit="us")
_EARLIER = pl.duration(days=1, time_unit="us")


def with_planted_future(events: pl.DataFrame, cuts: pl.DataFrame, codes: Iterable[str]) -> pl.DataFrame:
    """`events` with planted ones after each subject's cut, in the order of MEDS.

    Args:
        events: whole subjects (EVENT_SCHEMA). cuts: subject_id, cut.
        codes: what to plant besides `PLANTED`.
    """
    section = dict(events.select("code", "section").unique("code", maintain_order=True).iter_rows())
    wanted = sorted({PLANTED, *codes})
    of_codes = pl.DataFrame(
        {"code": wanted, "section": [section.get(code) or "observations" for code in wanted]},
        schema={"code": pl.String, "section": pl.String},
    )
    known = (pl.col("cut") + _LATE).alias("available_time")
    planted = cuts.select("subject_id", "cut").join(of_codes, how="cross")
    parts = [
        planted.select(
            "subject_id",
            time.alias("time"),
            "code",
            pl.lit(value, dtype=pl.Float32).alias("numeric_value"),
            pl.lit("planted", dtype=pl.String).alias("text_value"),
            known,
            "section",
        )
        for time, value in ((pl.col("cut") + _LATE, _EXTREME), (pl.col("cut") - _EARLIER, -_EXTREME))
    ]
    return (
        pl.concat([events.select(EVENT_SCHEMA.names()), *parts])
        .with_columns(pl.col("time").is_null().alias("static"))
        .sort("subject_id", "static", "time", "available_time", descending=[False, True, False, False],
              maintain_order=True)
        .drop("static")
    )  # fmt: skip


def codes_to_plant(events: pl.DataFrame, wanted: Iterable[str]) -> list[str]:
    """`wanted`, death, and the most frequent codes of `events`."""
    counts = events.drop_nulls("time").group_by("code").len().sort("len", "code", descending=[True, False])
    return sorted({DEATH, *wanted, *counts["code"].head(MOST_CODES).to_list()})


def write_planted(
    record: pl.DataFrame, meds_dir: Path, cuts: pl.DataFrame, wanted: Iterable[str], out: Path
) -> Path:
    """A MEDS dataset of the records `record` with a planted future, whose codes list the planted one."""
    events = with_planted_future(record, cuts, codes_to_plant(record, wanted))
    write_record(events, meds_dir, out)
    path = out / "metadata" / "codes.parquet"
    codes = pq.read_table(path)
    row = {name: [PLANTED] if name == "code" else [None] for name in codes.schema.names}
    pq.write_table(pa.concat_tables([codes, pa.table(row, schema=codes.schema)]), path)
    return out


def features_before_planted(
    features: Features, cohort: str, meds_dir: Path, cuts: pl.DataFrame, scratch: Path
) -> Finding:
    """Features of the cut nodes, from their subjects' records as they are and with a planted future."""
    record = record_of(meds_dir, cuts)
    whole = features(write_record(record, meds_dir, scratch / "whole"))
    planted = features(write_planted(record, meds_dir, cuts, (), scratch / "planted"))
    return _finding(cohort, "features", rows_that_differ(whole, planted), cuts.height)


def nodes_before_planted(
    spec: NodesSpec, cohort: str, nodes_dir: Path, meds_dir: Path, cuts: pl.DataFrame, scratch: Path
) -> Finding:
    """Nodes up to the cuts, as they were found and as they are found with a planted future."""
    planted = write_planted(record_of(meds_dir, cuts), meds_dir, cuts, _named_codes(spec, meds_dir), scratch)
    out = scratch / "nodes"
    out.mkdir()
    find_nodes(spec, cohort, planted, out)
    before, again = (_until(read_nodes(folder), cuts) for folder in (nodes_dir, out))
    return _finding(cohort, "decision nodes", len(before ^ again), len(before))


def _named_codes(spec: NodesSpec, meds_dir: Path) -> list[str]:
    """The codes of the dataset that the `decision_nodes` section names anywhere: a few of each pattern."""
    codes = read_codes(meds_dir)["code"].to_list()
    patterns = sorted(set(_patterns(spec.model_dump(mode="json"))))
    return sorted({code for pattern in patterns for code in matching_codes(codes, [pattern])[:3]})


def _patterns(value: object) -> Iterable[str]:
    """Every string in a list, anywhere in a spec: the regexes are, and what else is matches no code."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _patterns(inner)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, str):
                yield inner
            else:
                yield from _patterns(inner)


def _until(nodes: pl.DataFrame, cuts: pl.DataFrame) -> set[tuple[object, ...]]:
    rows = nodes.join(cuts.select("subject_id", "cut"), on="subject_id").filter(
        pl.col("time") <= pl.col("cut")
    )
    names = pl.col("trigger").list.sort().list.join("|")
    return set(rows.select("node_id", "subject_id", "time", names, "indication").iter_rows())


Windows = Callable[[pl.DataFrame], list[np.ndarray]]
"""Events of whole subjects → the token ids read at each cut, in the order of the cuts."""


def text_before_planted(
    stored: list[np.ndarray], windows: Windows, scope: str, meds_dir: Path, cuts: pl.DataFrame
) -> Finding:
    """Windows read at the cuts, as the corpus holds them and as records with a planted future give them.

    Args:
        stored: token ids per row of `cuts`.
    """
    record = record_of(meds_dir, cuts)
    planted = windows(with_planted_future(record, cuts, codes_to_plant(record, ())))
    changed = sum(not np.array_equal(a, b) for a, b in zip(stored, planted, strict=True))
    return _finding(scope, "text", changed, cuts.height)


def _finding(scope: str, about: str, changed: int, n: int) -> Finding:
    return Finding(
        guard=GUARD,
        scope=scope,
        verdict="fail" if changed else "ok",
        about=about,
        measured=float(changed),
        limit=0.0,
        n=n,
        note="that change when a future is planted after them",
    )
