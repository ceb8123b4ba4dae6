"""The manifest: what a committed dataset is made of and what it was made from."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_NAME = "_manifest.json"
FORMAT_VERSION = 1


class FileEntry(BaseModel):
    """One file of a dataset. `volatile` files (timings) do not enter the content hash."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    bytes: int
    sha256: str
    rows: int | None = None
    volatile: bool = False


class InputEntry(BaseModel):
    """An upstream dataset as it was when read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    asset: str
    data_version: str
    dataset: str


class Manifest(BaseModel):
    """Written last into a dataset's directory; a directory without it is not a dataset.

    `asset`, here and of the inputs, is the dataset's name: with the partition, if there is one (`names.py`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format_version: int = FORMAT_VERSION
    asset: str
    data_version: str
    code_version: str
    files: list[FileEntry]
    schemas: dict[str, dict[str, str]] = Field(default_factory=dict)
    row_counts: dict[str, int] = Field(default_factory=dict)
    inputs: list[InputEntry] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    stats: dict[str, Any] = Field(default_factory=dict)
    overrides: list[str] = Field(default_factory=list)
    lock_hash: str
    git_revision: str | None = None
    run_id: str | None = None
    started_at: datetime
    committed_at: datetime

    @property
    def total_bytes(self) -> int:
        return sum(f.bytes for f in self.files)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def now() -> datetime:
    return datetime.now(UTC)
