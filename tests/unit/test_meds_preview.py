"""Built-in cohort files looked at with `ehr cohort check`: none stumbles over tables of its kind."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest
from cohorts_support import SHARED
from test_meds_omop import CONDITION, DEATH, MEASUREMENT, VISIT, omop, tables

from ehr_assets.catalog import BUILT_IN
from ehr_assets.cohorts.spec import SyntheticSource, TablesSource, load_cohort
from ehr_assets.cohorts.synthetic.simulate import simulate
from ehr_assets.meds.preview import preview_cohort

SPECS = {path.stem: load_cohort(path) for path in sorted(BUILT_IN["cohorts"].glob("*.yaml"))}
OF_TABLES = [name for name, spec in SPECS.items() if isinstance(spec.source, TablesSource)]
SIMULATED = [name for name, spec in SPECS.items() if isinstance(spec.source, SyntheticSource)]
DEMOS = {
    "mimic_iv": "mimic_iv_demo",
    "mimic_iv_omop": "mimic_iv_demo_omop/tables",
    "physionet2012": "physionet2012_set_a.tar.gz",
    "tcga": "tcga/biotab.tar.gz",
}


@pytest.fixture
def real(request, tmp_path) -> Path:
    """The raw tables of a cohort: where its variable says, or the demo beside the project."""
    name = request.param
    given = os.environ.get(SPECS[name].source.root_env)
    root = Path(given) if given else SHARED / DEMOS.get(name, name)
    if not root.exists():
        pytest.skip(f"no raw tables of {name}: set {SPECS[name].source.root_env}")
    if root.is_dir():
        return root
    with tarfile.open(root) as archive:
        archive.extractall(tmp_path, filter="data")
    for beside in root.parent.glob("cdr.csv.gz"):
        shutil.copy(beside, tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "real"), [(n, n) for n in OF_TABLES], indirect=["real"])
def test_a_built_in_cohort_makes_events_of_real_tables(name, real):
    found = preview_cohort(SPECS[name], real, rows=50)
    assert not found.problems
    assert any(e.events.height for t in found.tables for e in t.events)


@pytest.mark.parametrize("name", SIMULATED)
def test_a_built_in_cohort_makes_events_of_simulated_tables(name, tmp_path):
    source = SPECS[name].source
    folders = [tmp_path / part for part in ("tables", "truth")]
    for folder in folders:
        folder.mkdir()
    simulate(source.simulator, *folders, subjects=5, seed=1)
    found = preview_cohort(SPECS[name], folders[0], rows=50)
    assert not found.problems
    assert all(t.accepted for t in found.tables if t.read)


def test_an_event_is_looked_at_without_the_columns_of_the_others(tmp_path):
    """OMOP chooses among many columns, of which one event alone reads few."""
    files = {
        "visit_occurrence": VISIT.format(from_="admitted_from_source_value", to="discharged_to_source_value"),
        "condition_occurrence": CONDITION, "measurement": MEASUREMENT, "death": DEATH,
    }  # fmt: skip
    found = preview_cohort(omop(), tables(tmp_path / "raw", **files), rows=50)
    assert not found.problems
    made = {t.spec.name: sum(e.events.height for e in t.events) for t in found.tables}
    assert {n for n, events in made.items() if events} >= {"person", *files}
