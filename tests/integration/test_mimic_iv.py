"""The whole chain on real tables in MIMIC-IV's layout. What their rows become: `unit/test_meds_mimic.py`."""

import polars as pl


def test_the_chain_completes_on_real_tables(mimic_installation):
    report = mimic_installation.path("mimic_iv/report") / "report.html"
    assert str(report) in mimic_installation.run_said
    page = report.read_text(encoding="utf-8")
    assert "data:image" in page or "<svg" in page
    assert "Oracle" not in page, "nobody knows the truth about real patients"
    states = mimic_installation.states()
    other = ("synthetic", "omop")
    ours = {state for name, state in states.items() if "mimic" in name and not any(o in name for o in other)}
    assert ours == {"fresh"}
    assert {state for name, state in states.items() if any(o in name for o in other)} == {"missing"}


def test_every_row_read_is_accepted_or_quarantined_table_by_table(mimic_installation):
    accounting = pl.read_parquet(mimic_installation.path("mimic_iv/meds_events") / "accounting.parquet")
    assert accounting["table"].n_unique() == len(accounting)
    assert (accounting["read"] > 0).all()
    assert (accounting["accepted"] + accounting["quarantined"] == accounting["read"]).all()


def test_a_second_run_finds_everything_fresh(mimic_installation):
    assert "assets are fresh; nothing to run." in mimic_installation.ehr("run", "--cohort", "mimic_iv")
