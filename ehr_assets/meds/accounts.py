"""What accumulates while tables are read and shards written: accounts, quarantine, descriptions, units.

Held in memory is only what grows with the tables and the codes; quarantined rows go to disk at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.contracts import SPLITS
from ehr_assets.meds.frames import write_parquet
from ehr_assets.meds.rows import QUARANTINE, UNITS, Made
from ehr_assets.meds.shards import ShardCounts

QUARANTINE_FILE = Path("quarantine") / "quarantine.parquet"
ACCOUNTING_FILE = Path("accounting.parquet")
_COUNTS = ("read", "accepted", "accepted_without_event", "quarantined", "events")
_ACCOUNTING_ARROW = pa.schema([("table", pa.string()), *((name, pa.int64()) for name in _COUNTS)])
_WRITTEN = pa.schema(
    [
        ("table", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("reason", pa.string()),
    ]
)
_BATCH_ROWS = 1_000_000
_SORT_MEMORY = "1GB"
_UNITS_HELD = 100_000


@dataclass
class _Account:
    read: int = 0
    accepted: int = 0
    with_events: int = 0
    quarantined: int = 0
    events: int = 0


@dataclass
class Accounts:
    """The accounts of an extraction.

    Args:
        folder: for what is kept on disk meanwhile; exists.
        tables: the spec's tables.
    """

    folder: Path
    tables: Sequence[str]
    by_table: dict[int, _Account] = field(default_factory=dict)
    described: dict[str, str] = field(default_factory=dict)
    deaths_in_doubt: set[int] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    reasons: dict[str, int] = field(default_factory=dict)
    _units: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=UNITS))
    _more_units: list[pl.DataFrame] = field(default_factory=list)
    _parts: list[Path] = field(default_factory=list)

    def opened(self, table: int) -> None:
        """A table is there, though it may be empty."""
        self.by_table.setdefault(table, _Account())

    def add_batch(self, table: int, made: Made) -> None:
        account = self.by_table[table]
        account.read += made.read
        account.accepted += made.accepted
        account.with_events += made.with_events
        for code, description in made.described.iter_rows():
            self.described.setdefault(code, description)
        if made.units.height:
            self._more_units.append(made.units)
        # Seldom, and the seldomer the more codes there are: every merge walks over all of them.
        if sum(u.height for u in self._more_units) > max(self._units.height, _UNITS_HELD):
            self._merge_units()
        self.deaths_in_doubt |= made.deaths_in_doubt
        self._quarantine(made.quarantined)

    def add_shard(self, counts: ShardCounts) -> None:
        self.codes |= counts.codes
        self.deaths_in_doubt |= counts.deaths_in_doubt
        for table, events in counts.events.iter_rows():
            self.by_table[table].events += events
        for table, rows in counts.before_birth["table"].value_counts().iter_rows():
            self.by_table[table].accepted -= rows
            self.by_table[table].with_events -= rows  # they all made an event: the one before birth
        self._quarantine(counts.before_birth)

    def _merge_units(self) -> None:
        together = pl.concat([self._units, *self._more_units]).group_by("code", "unit", "split")
        self._units, self._more_units = together.agg(pl.col("rows").sum()), []

    @property
    def units(self) -> pl.DataFrame:
        """code, unit (null: none; see `rows.UNITS`), split (name), rows; sorted.

        Counted while the tables are read: with the rows that turn out to lie before the subject's birth.
        """
        self._merge_units()
        names = dict(enumerate(SPLITS))
        named = pl.col("split").replace_strict(names, return_dtype=pl.String)
        return (
            self._units.filter(pl.col("code").is_in(sorted(self.codes)))
            .with_columns(named)
            .sort("code", "unit", "split")
        )

    def _quarantine(self, rows: pl.DataFrame) -> None:
        if not rows.height:
            return
        for reason, n in rows["reason"].value_counts().iter_rows():
            self.reasons[reason] = self.reasons.get(reason, 0) + n
        for table, n in rows["table"].value_counts().iter_rows():
            self.by_table[table].quarantined += n
        self._parts.append(self.folder / f"{len(self._parts):08d}.parquet")
        rows.write_parquet(self._parts[-1])

    def write_quarantine(self, files: Mapping[int, Sequence[str]], out_dir: Path) -> None:
        """Writes the quarantine, sorted, with the names of its tables and files (per table, by position)."""
        import duckdb

        path, names = out_dir / QUARANTINE_FILE, self.folder / "names.parquet"
        path.parent.mkdir()
        schema = {"table": pl.Int16, "file": pl.Int32, "table_name": pl.String, "file_name": pl.String}
        rows = [(t, f, self.tables[t], name) for t, named in files.items() for f, name in enumerate(named)]
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(names)
        empty = self.folder / "empty.parquet"
        pl.DataFrame(schema=QUARANTINE).write_parquet(empty)
        limits = {"threads": 1, "memory_limit": _SORT_MEMORY, "temp_directory": str(self.folder)}
        with duckdb.connect(config=limits) as db, pq.ParquetWriter(path, _WRITTEN, compression="zstd") as out:
            query = db.execute(
                'SELECT n.table_name AS "table", n.file_name AS "file", q."row", q."column", q.reason '
                "FROM read_parquet(?) q JOIN read_parquet(?) n "
                'ON n."table" = q."table" AND n."file" = q."file" '
                'ORDER BY q."table", q."file", q."row"',
                [[str(p) for p in [empty, *self._parts]], str(names)],
            )
            for batch in query.fetch_record_batch(_BATCH_ROWS):
                out.write_table(pa.Table.from_batches([batch]).cast(_WRITTEN))

    def write_accounting(self, out_dir: Path) -> dict[str, dict[str, int]]:
        """Writes the accounts and returns them: table → read, accepted, accepted_without_event, …"""
        rows = {
            self.tables[table]: {
                "read": a.read,
                "accepted": a.accepted,
                "accepted_without_event": a.accepted - a.with_events,
                "quarantined": a.quarantined,
                "events": a.events,
            }
            for table, a in sorted(self.by_table.items())
        }
        records: list[dict[str, Any]] = [{"table": name, **row} for name, row in rows.items()]
        write_parquet(pa.Table.from_pylist(records, schema=_ACCOUNTING_ARROW), out_dir / ACCOUNTING_FILE)
        return rows
