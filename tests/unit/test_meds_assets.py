"""A committed extraction looked back at: its accounts batch by batch, its lineage, what its version tells."""

import polars as pl
import pytest
from cohorts_support import LABS, PEOPLE, SPEC, extract, tiny, write_tables
from dagster import AssetKey

from ehr_assets.meds import audit
from ehr_assets.meds.assets import _column_lineage, meds_assets

LOST = "1,50,mg,never,,1,\n1,50,mg,2020-01-01,,x,\n1,50\n"


@pytest.mark.parametrize("batch_rows", [1, 2, 1000])
def test_the_accounts_are_held_against_the_quarantine_batch_by_batch(tmp_path, monkeypatch, batch_rows):
    monkeypatch.setattr(audit, "_BATCH_ROWS", batch_rows)
    root = write_tables(tmp_path / "raw", PEOPLE + "1,F,1950,\n9,F,x,\n", LABS + 3 * LOST)
    out = extract(root, tmp_path).out
    found = audit.accounting(out)
    assert found.balanced
    assert (found.read, found.quarantine_rows) == (11, 10)
    assert list(found.reasons.items()) == [
        ("unparsable number", 3),
        ("unparsable time", 4),
        ("wrong number of fields", 3),
    ]
    path = out / "quarantine" / "quarantine.parquet"
    rows = pl.read_parquet(path)
    rows[[0, *range(rows.height)]].write_parquet(path)  # a record twice
    assert audit.accounting(out).quarantine_rows == 10
    rows[1:].write_parquet(path)
    assert not audit.accounting(out).balanced
    rows.clear().write_parquet(path)
    assert (audit.accounting(out).quarantine_rows, audit.accounting(out).reasons) == (0, {})


def test_the_section_comes_from_the_column_that_its_rules_read():
    rules = {"column": "item", "rules": {"^5": "measurements"}, "default": "observations"}
    lab = {**SPEC["tables"][1]["events"][0], "section": rules}
    spec = tiny(tables=[SPEC["tables"][0], {**SPEC["tables"][1], "events": [lab]}])
    columns = {c: [d.column_name for d in deps] for c, deps in _column_lineage(spec).deps_by_column.items()}
    assert columns["section"] == ["labs.item"]
    assert columns["numeric_value"] == ["labs.number"]


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"quarantine_threshold": 0.5}, False),
        ({"title": "Other"}, False),
        ({"shard_subjects": 3}, True),
        ({"time_zone": "UTC"}, True),
    ],
)
def test_events_are_stale_when_what_shapes_them_changed(change, stale):
    def version(spec) -> str:
        return meds_assets(spec)[1].code_versions_by_key[AssetKey(["tiny", "meds_events"])]

    assert (version(tiny(**change)) != version(tiny())) is stale
