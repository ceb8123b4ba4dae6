"""The whole chain on real oncology, TCGA's clinical tables. Their rows: `unit/test_cohorts_tcga.py`."""

import polars as pl
from conftest import balanced_accounting, page_without_oracle


def test_the_chain_completes_on_real_oncology(tcga_installation):
    page_without_oracle(tcga_installation, "tcga")
    states = tcga_installation.states_of_chains()
    ours = {state for name, state in states.items() if "tcga" in name}
    assert ours == {"fresh"}
    assert {state for name, state in states.items() if "tcga" not in name} == {"missing"}


def test_tasks_are_scored_on_many_cancers(tcga_installation):
    table = pl.read_parquet(tcga_installation.path("tcga/comparison") / "metrics.parquet")
    scored = table.filter(pl.col("value").is_not_null() & pl.col("metric").is_in(["auroc", "c_index"]))
    assert {"baseline", "smb_sft_tcga_demo"} <= set(scored["recipe"])
    assert scored["task"].n_unique() >= 5
    assert scored["indication"].n_unique() >= 5
    assert scored["value"].is_between(0, 1).all()


def test_every_row_read_is_accepted_or_quarantined_table_by_table(tcga_installation):
    balanced_accounting(tcga_installation, "tcga")
