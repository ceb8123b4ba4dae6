"""Joined tables of any size: written once as sorted files, looked up from there by every worker.

A dimension is dealt by the hash of its key into parts that fit into memory; each part is sorted by that hash
and mapped into memory by its readers, so that what is held is the machine's page cache and nothing of ours.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehr_assets.cohorts.batches import ROW
from ehr_assets.cohorts.cleaning import cleaned
from ehr_assets.cohorts.files import RawRoot, find_files, require_files
from ehr_assets.cohorts.readers import read_table
from ehr_assets.cohorts.spec import JoinSpec
from ehr_assets.meds import expressions as ex
from ehr_assets.meds.staging import Parts, dealt

PART_BYTES = 64 << 20  # of text, per part
_KEY, _HASH = "__key__", "__hash__"
_SEPARATOR = "\x1f"
_ABOUT = "about.json"


def build_dimension(
    join: JoinSpec, root: RawRoot, folder: Path, *, key: str, limit: int | None = None
) -> dict[str, int]:
    """Reads a joined table, only the columns and rows the join uses, and writes it for `Dimension`.

    Args:
        join: as it is stored (`JoinSpec.as_stored`).
        folder: does not exist yet.
        key: what in the spec asks for it, for errors.
        limit: stop after about so many records.

    Returns:
        rows, ragged (records with the wrong number of fields), duplicate_keys.

    Raises:
        RawTableError: it cannot be read, or is missing and not optional.
    """
    files = find_files(root, join.file) if join.optional else require_files(root, join.file, key=key)
    folder.mkdir(parents=True)
    parts = max(1, -(-sum(f.text_bytes for f in files) // PART_BYTES))
    counts = {"rows": 0, "ragged": 0, "duplicate_keys": 0}
    schema = pl.Schema({_KEY: pl.String, **dict.fromkeys(join.columns, pl.String), _HASH: pl.UInt64})
    raw = Parts(folder / "raw", schema)
    for rows in _rows(join, files, counts):
        raw.add(rows, _part_of(rows, parts))
        if limit is not None and counts["rows"] >= limit:
            break
    for part in range(parts):
        counts["duplicate_keys"] += _sorted_part(raw.read(part), folder / f"{part:05d}.arrow")
        raw.drop(part)
    raw.folder.rmdir()
    (folder / _ABOUT).write_text(json.dumps({"parts": parts}), encoding="utf-8")
    return counts


def _rows(join: JoinSpec, files: Sequence[Any], counts: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Key, its hash and the new columns, batch by batch; rows without a key are left out."""
    if not files:
        return
    there = sorted(join.columns_there())
    numbers = sorted(join.when.numbers())
    new = [pl.col(old).alias(name) for name, old in join.columns.items()]
    for batch in read_table(files, there, join):
        counts["rows"] += batch.records
        counts["ragged"] += len(batch.ragged)
        frame = batch.frame.select(ROW, *cleaned(there, join))
        frame = frame.with_columns(ex.number(pl.col(c)).alias(ex.parsed(c, "number")) for c in numbers)
        yield (
            frame.filter(ex.condition(join.when))
            .select(_key([*join.on.values()]).alias(_KEY), *new)
            .drop_nulls(_KEY)
            .with_columns(pl.col(_KEY).hash(0).alias(_HASH))
        )


def _key(columns: list[str]) -> pl.Expr:
    return pl.col(columns[0]) if len(columns) == 1 else pl.concat_str(columns, separator=_SEPARATOR)


def _part_of(rows: pl.DataFrame, parts: int) -> np.ndarray:
    return (rows[_HASH].fill_null(0) % parts).cast(pl.Int64).to_numpy()


def _sorted_part(frame: pl.DataFrame, out: Path) -> int:
    """Writes the part sorted by hash, the first row of each key; returns how many others there were."""
    unique = frame.unique(_KEY, keep="first", maintain_order=True).sort(_HASH)
    unique.write_ipc(out, compat_level=pl.CompatLevel.newest(), record_batch_size=max(unique.height, 1))
    return frame.height - unique.height


class Dimension:
    """A joined table, as `build_dimension` wrote it to `folder`."""

    def __init__(self, join: JoinSpec, folder: Path) -> None:
        self.join, self.folder = join, folder
        self.parts = int(json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["parts"])

    def add_to(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds its columns to `frame`; rows and their order stay."""
        asked = frame.select(_key(self.join.keys_here()).alias(_KEY)).with_columns(
            pl.col(_KEY).hash(0).alias(_HASH), pl.int_range(pl.len()).alias(ROW)
        )
        found = [self._found(part, rows) for part, rows in dealt(asked, _part_of(asked, self.parts)).items()]
        if not found:
            return frame.with_columns(pl.lit(None, pl.String).alias(c) for c in self.join.columns)
        together = pl.concat(found)
        together = together if len(found) == 1 else together.sort(ROW)
        return frame.hstack(together.select(*self.join.columns))

    def _found(self, part: int, asked: pl.DataFrame) -> pl.DataFrame:
        """`ROW` and the new columns of the rows asked for; null where the key is not there."""
        there, hashes = self._parts[part]
        wanted, keys = asked[_HASH].to_numpy(), asked[_KEY]
        at = np.searchsorted(hashes, wanted)
        found = np.full(len(at), -1)
        # Two keys may share a hash: they stand one behind the other.
        while (open_ := np.flatnonzero((at < len(hashes)) & (found < 0))).size:
            open_ = open_[hashes[at[open_]] == wanted[open_]]
            if not open_.size:
                break
            same = (there[_KEY].gather(at[open_]) == keys.gather(open_)).fill_null(False).to_numpy()
            found[open_[same]] = at[open_[same]]
            at[open_] += 1
        position = pl.select(
            pl.when(pl.lit(pl.Series(found)) >= 0).then(pl.lit(pl.Series(found)))
        ).to_series()
        columns = [there[old].gather(position).alias(new) for new, old in self.join.columns.items()]
        return asked.select(ROW).hstack(columns)

    @cached_property
    def _parts(self) -> list[tuple[pl.DataFrame, np.ndarray]]:
        frames = [pl.read_ipc(self.folder / f"{p:05d}.arrow", memory_map=True) for p in range(self.parts)]
        return [(frame, frame[_HASH].to_numpy()) for frame in frames]
