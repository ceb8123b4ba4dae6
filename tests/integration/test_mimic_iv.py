"""The whole chain on real tables in MIMIC-IV's layout. What their rows become: `unit/test_meds_mimic.py`."""

from conftest import balanced_accounting, page_without_oracle


def test_the_chain_completes_on_real_tables(mimic_installation):
    page_without_oracle(mimic_installation, "mimic_iv")
    states = mimic_installation.states_of_chains()
    other = ("synthetic", "omop")
    ours = {state for name, state in states.items() if "mimic" in name and not any(o in name for o in other)}
    assert ours == {"fresh"}
    assert {state for name, state in states.items() if any(o in name for o in other)} == {"missing"}


def test_every_row_read_is_accepted_or_quarantined_table_by_table(mimic_installation):
    accounting = balanced_accounting(mimic_installation, "mimic_iv")
    assert accounting["table"].n_unique() == len(accounting)


def test_a_second_run_finds_everything_fresh(mimic_installation):
    assert "assets are fresh; nothing to run." in mimic_installation.ehr("run", "--cohort", "mimic_iv")
