"""Fixtures of several test modules."""

from pathlib import Path

import pytest


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
