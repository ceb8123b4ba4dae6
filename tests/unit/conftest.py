"""What several modules of unit tests need."""

import pytest
from simulators_support import SUBJECTS, Simulated

from ehr_assets.cohorts.synthetic.registry import SIMULATORS


@pytest.fixture(scope="session")
def worlds(tmp_path_factory) -> dict[str, Simulated]:
    """A small cohort of every simulator, of the same persons."""
    root = tmp_path_factory.mktemp("worlds")
    return {name: Simulated.run(name, root / name, SUBJECTS[name]) for name in SIMULATORS}
