"""A table as the readers hand it over, for the tests of what hospitals really send."""

from pathlib import Path
from typing import Any

from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawRoot, find_files
from ehr_assets.cohorts.readers import read_table
from ehr_assets.specs import parse_spec

Table = dict[int, tuple[str | None, ...]]


def read(folder: Path, columns=("a", "b"), **how: Any) -> tuple[Table, dict[int, str]]:
    """({record: values}, {record: reason}) of the table `t` in a folder."""
    good, ragged = {}, {}
    spec = parse_spec(FileSpec, {"file": "t", **how}, "t")
    files = find_files(RawRoot.of(folder), "t")
    assert files
    for batch in read_table(files, list(columns), spec):
        good |= {row[1]: row[2:] for row in batch.frame.rows()}
        ragged |= {row: reason for _, row, reason in batch.ragged}
    return good, ragged


AB = {1: ("1", "2"), 2: ("3", "4")}
