"""The MEDS dataset on disk: its schemas, order and metadata files, and the strict check of all of it.

The contract that every room to the right reads by; how the events come about is `extract.py`.
"""

import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from flexible_schema import SchemaValidationError
from meds import (
    CodeMetadataSchema,
    DataSchema,
    DatasetMetadataSchema,
    SubjectSplitSchema,
    code_metadata_filepath,
    data_subdirectory,
    dataset_metadata_filepath,
    subject_splits_filepath,
)

from ehr_assets.cohorts.files import RawRoot
from ehr_assets.contracts import SPLITS
from ehr_assets.errors import DatasetError, RawTableError
from ehr_assets.meds.footers import subjects_of, validate_file

MEDS_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.large_string()),
        ("available_time", pa.timestamp("us")),
        ("section", pa.string()),
    ]
)
"""Columns of the event files. `available_time`: when the record could first be known (≥ time)."""

SORT_BY = ["subject_id", "time", "available_time", "section", "code", "numeric_value", "text_value"]
"""Nulls first; `section` by its index in SECTIONS, not by name."""

EXTENSIONS = ["available_time", "section"]


UNITS_FILE = Path("quality") / "units.parquet"
"""code, unit, split, rows: how many events of each code came with each unit (null: without)."""


def write_parquet(table: pa.Table, path: Path) -> None:
    """Writes zstd Parquet without anything that differs between equal runs."""
    pq.write_table(table, path, compression="zstd")


def event_files(root: Path) -> dict[str, list[Path]]:
    """The event files of a MEDS dataset per split, in order."""
    return {split: sorted((root / data_subdirectory / split).glob("*.parquet")) for split in SPLITS}


def write_codes(
    codes: Iterable[str],
    described: dict[str, str],
    units: pl.DataFrame,
    root: Path,
    parents: Mapping[str, list[str]] = {},
) -> int:
    """Writes metadata/codes.parquet, sorted by code, and returns the number of codes.

    Args:
        codes: all codes of the event files.
        described: code → description.
        units: code, unit: the units seen with each code. Only a code's single unit is written: with several,
            to name one would be wrong for the other events.
        parents: code → the codes above it.
    """
    single = units.select("code", "unit").drop_nulls().unique().filter(pl.len().over("code") == 1)
    unit_of = dict(single.iter_rows())
    names = sorted(codes)
    table = pa.table(
        {
            "code": pa.array(names, pa.string()),
            "description": pa.array([described.get(c) for c in names], pa.string()),
            "parent_codes": pa.array([parents.get(c) for c in names], pa.list_(pa.string())),
            "unit": pa.array([unit_of.get(c) for c in names], pa.string()),
        }
    )
    write_parquet(CodeMetadataSchema.align(table), root / code_metadata_filepath)
    return len(names)


def code_parents(root: RawRoot) -> dict[str, list[str]]:
    """Code → parent codes of a MEDS dataset's metadata; empty where it has none.

    Raises:
        RawTableError: the file is there, but cannot be read.
    """
    if root.size(code_metadata_filepath) is None:
        return {}
    try:
        with root.open(code_metadata_filepath) as source:
            parquet = pq.ParquetFile(source)
            if not {"code", "parent_codes"} <= set(parquet.schema_arrow.names):
                return {}
            table = parquet.read(["code", "parent_codes"])
        parents = table["parent_codes"].cast(pa.list_(pa.string())).to_pylist()
    except (pa.ArrowException, OSError):
        raise RawTableError(
            "The codes of the MEDS dataset cannot be read.",
            where=root.where(code_metadata_filepath),
            do="Copy it again; `parent_codes` must be lists of text.",
        ) from None
    codes = table["code"].cast(pa.string()).to_pylist()
    return {code: above for code, above in zip(codes, parents, strict=True) if code and above}


def write_dataset_json(name: str, etl_version: str, root: Path) -> None:
    """Writes metadata/dataset.json; without the optional `created_at`: equal runs give equal bytes."""
    data = {
        "dataset_name": name,
        "etl_name": "ehr-assets",
        "etl_version": etl_version,
        "meds_version": metadata.version("meds"),
        "other_extension_columns": EXTENSIONS,
    }
    DatasetMetadataSchema.validate(data)
    (root / dataset_metadata_filepath).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def validate_meds(root: Path) -> int:
    """Holds a MEDS dataset against the `meds` package's strict schemas and returns its number of events.

    Reads footers and the subjects' ids, whatever the size of the files.

    Raises:
        DatasetError: a file does not fit its schema, or one subject is in two files.
    """
    _validate(root / subject_splits_filepath, SubjectSplitSchema)
    _validate(root / code_metadata_filepath, CodeMetadataSchema)
    DatasetMetadataSchema.validate(json.loads((root / dataset_metadata_filepath).read_text(encoding="utf-8")))
    files = [path for paths in event_files(root).values() for path in paths]
    for path in files:
        _validate(path, DataSchema)
    found = [pl.Series("subject_id", subjects_of(path), pl.Int64) for path in files]
    ids = pl.concat([pl.Series("subject_id", [], pl.Int64), *found])
    twice = ids.filter(ids.is_duplicated())
    if twice.len():
        there = next(p for p, ids in zip(files, found, strict=True) if ids.is_in(twice.implode()).any())
        raise _invalid(there, "a subject has events in two files")
    return sum(pq.read_metadata(path).num_rows for path in files)


def _validate(path: Path, schema) -> None:
    try:
        validate_file(path, schema)
    except SchemaValidationError as e:
        raise _invalid(path, str(e)) from None


def _invalid(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"A file of the MEDS dataset is not valid MEDS: {reason}.",
        where=str(path),
        do="Re-materialize the cohort's meds_events.",
    )
