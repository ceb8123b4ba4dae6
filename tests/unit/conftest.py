"""Fixtures of several test modules."""

from pathlib import Path

import pytest
from simulators_support import SUBJECTS, Simulated

from ehr_assets.cohorts.synthetic.registry import SIMULATORS


@pytest.fixture
def raw(tmp_path: Path):
    """Writes raw files by name; people 1 and 2 are there."""
    root = tmp_path / "raw"

    def write(people: str = "id\n1\n2\n", **files: str | bytes) -> Path:
        for name, content in {"people.csv": people, **files}.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Simulated]:
    """A small cohort of every simulator, of the same persons."""
    root = tmp_path_factory.mktemp("worlds")
    return {name: Simulated.run(name, root / name, SUBJECTS[name]) for name in SIMULATORS}
