"""Of whom a node is about, as far as it was known at the node: sex, age band, race, ethnicity, …

Results are shown apart for these groups. Static rows of the record are known always; of the others the one
that became known last by the node's time counts.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import polars as pl

from ehr_assets.contracts import BIRTH
from ehr_assets.meds.reading import matching_codes, scan_events
from ehr_assets.nodes.frames import SUBGROUP_SCHEMA, TIMESTAMP
from ehr_assets.nodes.trigger_spec import AgeSubgroup, CodeSubgroup, Subgroup

UNKNOWN = "unknown"
_ALWAYS = datetime(1, 1, 1)


def subgroups_at(
    nodes: pl.DataFrame, subgroups: Mapping[str, Subgroup], meds_dir: Path, codes: Sequence[str]
) -> pl.DataFrame:
    """One row per subgroup and node (columns of SUBGROUP_SCHEMA), in the order of the spec and of `nodes`.

    Args:
        nodes: node_id, subject_id, time.
        codes: the codes of the dataset.

    Returns:
        `value` is "unknown" where nothing that was known by the node's time says it.
    """
    parts = [SUBGROUP_SCHEMA.empty_table()]
    for name, subgroup in subgroups.items():
        match subgroup:
            case CodeSubgroup(values=values):
                value = _last_known(nodes, _groups(values, meds_dir, codes), pl.col("group"))
            case AgeSubgroup(bounds=bounds, recorded_as=None):
                births = _events(meds_dir, [BIRTH]).filter(pl.col("time").is_not_null())
                value = _last_known(nodes, births.with_columns(order=0), _band(_whole_years(), bounds))
            case AgeSubgroup(bounds=bounds, recorded_as=patterns):
                ages = _events(meds_dir, matching_codes(codes, patterns or []))
                ages = ages.filter(pl.col("numeric_value").is_finite()).with_columns(order=0)
                value = _last_known(nodes, ages, _band(pl.col("numeric_value").floor(), bounds))
        value = value.select("node_id", name=pl.lit(name), value=pl.col("value").fill_null(UNKNOWN))
        parts.append(value.to_arrow().cast(SUBGROUP_SCHEMA))
    return pl.concat([pl.DataFrame(part) for part in parts])


def _events(meds_dir: Path, codes: Sequence[str]) -> pl.DataFrame:
    """subject_id, code, time, value and when it was known of the events with these codes, static rows too."""
    known = pl.col("available_time").fill_null(pl.lit(_ALWAYS, dtype=TIMESTAMP)).alias("known")
    events = scan_events(meds_dir).filter(pl.col("code").is_in(sorted(codes)))
    return events.select("subject_id", "code", "time", "numeric_value", known).collect(engine="streaming")


def _groups(values: Mapping[str, Sequence[str]], meds_dir: Path, codes: Sequence[str]) -> pl.DataFrame:
    matched = [
        (code, group, order)
        for order, (group, patterns) in enumerate(values.items())
        for code in matching_codes(codes, patterns)
    ]
    schema = {"code": pl.String, "group": pl.String, "order": pl.Int64}
    names = pl.DataFrame(matched, schema=schema, orient="row").unique(
        "code", keep="first", maintain_order=True
    )
    return _events(meds_dir, names["code"].to_list()).join(names, on="code")


def _last_known(nodes: pl.DataFrame, events: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """`nodes` with `value`, an expression over the event known last by the node's `time` (it has `t`)."""
    by = ["known", "subject_id", "time", "order", "code", "numeric_value"]
    newest = events.sort(by, descending=[key == "order" for key in by], nulls_last=False)
    newest = newest.unique(["subject_id", "known"], keep="last", maintain_order=True)
    rows = nodes.select("node_id", "subject_id", pl.col("time").alias("t")).with_row_index("row").sort("t")
    found = rows.join_asof(
        newest,
        left_on="t",
        right_on="known",
        by="subject_id",
        strategy="backward",
        coalesce=False,
        check_sortedness=False,
    )
    return found.sort("row").with_columns(value.alias("value"))


def _whole_years() -> pl.Expr:
    """The birthdays that who was born at `time` has had by `t`."""
    t, born = pl.col("t"), pl.col("time")
    birthday_to_come = (t.dt.month() * 100 + t.dt.day()) < (born.dt.month() * 100 + born.dt.day())
    return t.dt.year() - born.dt.year() - birthday_to_come.cast(pl.Int32)


def _band(age: pl.Expr, bounds: Sequence[int]) -> pl.Expr:
    labels = [
        f"<{bounds[0]}",
        *(f"{a}-{b - 1}" for a, b in pairwise(bounds)),
        f"{bounds[-1]}+",
    ]
    band = pl.when(age < 0).then(None)
    for bound, label in zip(bounds, labels, strict=False):
        band = band.when(age < bound).then(pl.lit(label))
    return band.when(age.is_not_null()).then(pl.lit(labels[-1]))
