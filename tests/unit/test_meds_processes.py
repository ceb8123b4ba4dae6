"""Extraction at size: equal bytes whatever the number of processes, one subject with very many events."""

import polars as pl
import pytest
from language_support import EVENT, cohort, run

from ehr_assets.fanout import GB, Machine
from ehr_assets.meds import extract


@pytest.mark.parametrize("group_rows", [3, 1_000_000])
def test_equal_bytes_whatever_the_number_of_processes(raw, monkeypatch, group_rows):
    """Also where shards share a part of the staged events, and are written a few subjects at a time."""
    monkeypatch.setattr(extract, "SMALL_BYTES", 0)
    monkeypatch.setattr(extract, "PARTS", 4)
    monkeypatch.setattr(extract, "GROUP_ROWS", group_rows)
    people = "id\n" + "".join(f"{i}\n" for i in range(60))
    rows = "".join(f"{i % 61},2020-01-{1 + i % 28:02d},{i % 7},{i}\n" for i in range(900))
    spec = cohort(
        {**EVENT, "code": "C//{k}", "time": "at", "numeric_value": "v", "description": "{name}"},
        {"joins": [{"file": "names", "on": ["k"], "columns": {"name": "name"}}]},
        shard_subjects=7,
    )
    names = "k,name\n" + "".join(f"{k},Name {k}\n" for k in range(5))
    root = raw(people, **{"t.csv": "id,at,k,v\n" + rows, "names.csv": names})

    def files(machine: Machine) -> dict[str, bytes]:
        got = run(root, spec, machine)
        assert got.balanced()
        return {p.relative_to(got.out).as_posix(): p.read_bytes() for p in got.out.rglob("*") if p.is_file()}

    alone = files(Machine(1))
    assert alone == files(Machine(2, 16 * GB))
    assert sum(name.startswith("data/train") for name in alone) > 4


def test_a_subject_with_a_million_events(raw):
    """One subject is never cut in two, and many small ones around it are written as well."""
    spec = cohort({**EVENT, "code": "C//{k}", "time": "at", "numeric_value": "k"})
    n = 1_000_000
    rows = pl.DataFrame(
        {"at": pl.datetime_range(pl.datetime(2000, 1, 1), pl.datetime(2030, 1, 1), "15m", eager=True)}
    )
    rows = rows.head(n).select(id=pl.lit(1), at="at", k=pl.int_range(pl.len()) % 50)
    root = raw(**{"t.csv": rows.write_csv(datetime_format="%Y-%m-%d %H:%M:%S") + "2,2020-01-01,3\n"})
    got = run(root, spec)
    assert got.events.filter(pl.col("time").is_not_null())["subject_id"].value_counts().sort(
        "subject_id"
    ).rows() == [
        (1, n),
        (2, 1),
    ]
    assert got.events.filter(pl.col("subject_id") == 1)["time"].is_sorted()
    assert got.balanced()
