"""What the MEDS suite is asked on: views on the event files, and small tables counted from them by DuckDB.

What runs where. Whatever a single row can tell is left to Great Expectations, on the view `events`, straight
over the Parquet files: it counts all of it in one statement. What needs several rows (order, a subject's
birth and death, a code's numbers, a month's volume) would be a self-join or a window per expectation there;
it is counted here, each kind once, and Great Expectations judges the counts per subject, code or month.

Order and duplicates are read off neighbouring rows in the order of the file (`lag` without partition streams;
sorting 50 million rows would not), so those statements run per bundle of files, several at a time.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from ehr_assets.contracts import BIRTH, DEATH
from ehr_assets.errors import DatasetError
from ehr_assets.expectations import Workbench, parquet, quoted
from ehr_assets.meds.frames import MEDS_SCHEMA, UNITS_FILE, event_files
from ehr_assets.meds.quality_spec import QualitySpec, ValueRangesSpec

_BUNDLE_ROWS = 4_000_000
_PER_OCTAVE, _ONE = 8, 1250  # a bin holds numbers within 9 %; the bin of 1.0


def measure(bench: Workbench, meds_dir: Path, quality: QualitySpec, previous: Path | None = None) -> bool:
    """Fills the workbench for `suites.meds_suite`.

    Args:
        meds_dir: a meds_events directory.
        previous: the last one before it, if there is one.

    Returns:
        Whether the files have the columns of a MEDS frame; if not, only `columns` was made.

    Raises:
        DatasetError: there are no event files.
    """
    by_split = event_files(meds_dir)
    files = [f for split in by_split.values() for f in split]
    if not files:
        raise DatasetError(
            "The MEDS dataset has no event files.",
            where=str(meds_dir),
            do="Materialize the cohort's meds_events again.",
        )
    with bench.connect() as db:
        if not _columns(db, files):
            return False
        _views(db, meds_dir, files, quality)
        _neighbours(db, files, bench.machine.workers)
        _subjects(db, files)
        _after_death(db, files, quality.death_grace_days)
        rest = [f for split, members in by_split.items() if split != "train" for f in members]
        _codes(db, {True: by_split["train"], False: rest})
        db.execute(_value_ranges(quality.values))
        if previous and (earlier := [f for split in event_files(previous).values() for f in split]):
            _volume(db, files, earlier, quality.volume.min_events)
        if (units := meds_dir / UNITS_FILE).is_file():
            db.execute(_code_units(units))
    return True


def _columns(db: Any, files: Sequence[Path]) -> bool:
    """columns: a row per file and column; `fits`: the file has it in the type of `MEDS_SCHEMA`."""
    rows = []
    for file in files:
        found = {f.name: str(f.type) for f in pq.read_schema(file)}
        rows += [(f.name, found.get(f.name) == str(f.type)) for f in MEDS_SCHEMA]
    columns = pl.DataFrame(rows, schema={"name": pl.String, "fits": pl.Boolean}, orient="row")
    db.register("found_columns", columns.to_arrow())
    db.execute("CREATE TABLE columns AS SELECT * FROM found_columns")
    return bool(columns["fits"].all())


def _views(db: Any, meds_dir: Path, files: Sequence[Path], quality: QualitySpec) -> None:
    """events: what a single row can tell, a flag per question. codes, splits: the metadata files.

    A flag is null where all is well: counting nulls costs Great Expectations least.
    """
    window = quality.window
    limits = []
    if window and window.first:
        limits.append(f"time < DATE '{window.first}'")
    if window and window.last:
        limits.append(f"time >= DATE '{window.last}' + INTERVAL 1 DAY")
    flags = {
        "known_too_early": "available_time < time",
        "half_dated": "(time IS NULL) <> (available_time IS NULL)",
        "undated": "time IS NULL AND section <> 'demographics'",
        "not_finite": "NOT isfinite(numeric_value)",
        "outside_window": f"code <> '{BIRTH}' AND ({' OR '.join(limits)})" if limits else "false",
    }
    asked = ", ".join(f"CASE WHEN {condition} THEN true END AS {name}" for name, condition in flags.items())
    db.execute(f"CREATE VIEW events AS SELECT subject_id, code, section, {asked} FROM {parquet(files)}")
    for name, file in (("codes", "codes.parquet"), ("splits", "subject_splits.parquet")):
        db.execute(f"CREATE VIEW {name} AS SELECT * FROM {parquet([meds_dir / 'metadata' / file])}")


def _neighbours(db: Any, files: Sequence[Path], workers: int) -> None:
    """files: a row per file: its rows out of order, and those that equal the one before in every column."""
    db.execute("CREATE TABLE files (file BIGINT, events BIGINT, disordered BIGINT, repeated BIGINT)")
    columns = ", ".join(MEDS_SCHEMA.names)

    def count(bundle: tuple[int, list[Path]]) -> None:
        offset, members = bundle
        with db.cursor() as cursor:
            cursor.execute(
                f"""INSERT INTO files
                SELECT {offset} + file, count(*),
                  count(*) FILTER (row > 0 AND (last_subject > subject_id OR (last_subject = subject_id AND
                    (last_time > time OR (time IS NULL AND last_time IS NOT NULL))))),
                  count(*) FILTER (row > 0 AND last_content = content)
                FROM (SELECT *, lag(subject_id) OVER () AS last_subject, lag(time) OVER () AS last_time,
                    lag(content) OVER () AS last_content
                  FROM (SELECT subject_id, time, file_index AS file, file_row_number AS row,
                      hash({columns}) AS content FROM {parquet(members)}))
                GROUP BY file"""
            )

    with ThreadPoolExecutor(workers) as pool:  # DuckDB lets go of the GIL
        list(pool.map(count, bundles(files, workers)))
    db.execute(
        """CREATE VIEW totals AS SELECT coalesce(sum(events), 0) AS events, coalesce(sum(repeated), 0) AS
        repeated, coalesce(sum(repeated) / sum(events), 0) AS repeated_share FROM files"""
    )


def _subjects(db: Any, files: Sequence[Path]) -> None:
    """file_subjects: a row per file and subject. subjects: a row per subject, over all files."""
    db.execute(
        f"""CREATE TABLE file_subjects AS
        SELECT subject_id, file_index AS file,
          count(*) FILTER (code = '{BIRTH}') AS births, count(*) FILTER (code = '{DEATH}') AS deaths,
          min(time) AS first, max(time) AS last, min(time) FILTER (code = '{BIRTH}') AS birth,
          min(time) FILTER (code = '{DEATH}') AS death
        FROM {parquet(files)} WHERE subject_id IS NOT NULL GROUP BY subject_id, file_index"""
    )
    db.execute(
        """CREATE TABLE subjects AS SELECT f.*, s.subject_id IS NOT NULL AS has_split
        FROM (SELECT subject_id, count(*) AS files, sum(births)::BIGINT AS births,
            sum(deaths)::BIGINT AS deaths, max(last) AS last, min(birth) AS birth, min(death) AS death,
            coalesce(min(first) >= min(birth), true) AS after_birth
          FROM file_subjects GROUP BY subject_id) f
        LEFT JOIN (SELECT DISTINCT subject_id FROM splits WHERE split IS NOT NULL) s USING (subject_id)"""
    )


def bundles(files: Sequence[Path], workers: int) -> list[tuple[int, list[Path]]]:
    """(index of the first file, files): runs of files of about `_BUNDLE_ROWS`, enough for all workers."""
    rows = [pq.read_metadata(f).num_rows for f in files]
    size = min(_BUNDLE_ROWS, -(-sum(rows) // workers))
    out: list[tuple[int, list[Path]]] = []
    held = 0
    for i, (file, n) in enumerate(zip(files, rows, strict=True)):
        if not out or held + n > size:
            out.append((i, []))
            held = 0
        out[-1][1].append(file)
        held += n
    return out


def _after_death(db: Any, files: Sequence[Path], grace_days: int) -> None:
    """deaths: a row per subject who died, with the number of events after the death and the grace.

    Only the files of subjects whose last event is that late are read once more.
    """
    db.execute(
        f"""CREATE TABLE late AS SELECT subject_id, death + INTERVAL {grace_days} DAY AS until FROM subjects
        WHERE last > death + INTERVAL {grace_days} DAY"""
    )
    where = db.execute("SELECT DISTINCT file FROM file_subjects JOIN late USING (subject_id)").fetchall()
    counted = "SELECT NULL::BIGINT AS subject_id, 0 AS events WHERE false"
    if where:
        counted = f"""SELECT subject_id, count(*) AS events FROM {parquet(files[i] for (i,) in sorted(where))}
          JOIN late USING (subject_id) WHERE time > until GROUP BY subject_id"""
    db.execute(
        f"""CREATE TABLE deaths AS SELECT subject_id, coalesce(a.events, 0) AS events_after
        FROM subjects LEFT JOIN ({counted}) a USING (subject_id) WHERE death IS NOT NULL"""
    )


def _codes(db: Any, files: dict[bool, list[Path]]) -> None:
    """code_bins: events per code and bin of the number, in train (by folder) or not. codes_seen: per code.

    The bins are a histogram on a logarithmic scale, so that ranges are fitted and applied from one pass; they
    are monotone: 0 for 0, negative for negative numbers, null for none.
    """
    db.execute("CREATE TABLE code_bins (code VARCHAR, bin SMALLINT, train BOOLEAN, events BIGINT)")
    for train, members in files.items():
        if members:
            db.execute(
                f"""INSERT INTO code_bins SELECT code,
                  CASE WHEN numeric_value IS NULL OR NOT isfinite(numeric_value) THEN NULL
                    WHEN numeric_value = 0 THEN 0
                    ELSE sign(numeric_value) * ({_ONE} + floor({_PER_OCTAVE} * log2(abs(numeric_value))))
                  END::SMALLINT AS bin, {train}, count(*)
                FROM {parquet(members)} WHERE code IS NOT NULL GROUP BY code, bin"""
            )
    db.execute(
        """CREATE TABLE codes_seen AS SELECT code, sum(events)::BIGINT AS events,
          code IN (SELECT code FROM codes) AS listed
        FROM code_bins GROUP BY code"""
    )


def _value_ranges(spec: ValueRangesSpec) -> str:
    """value_ranges: per code with enough numbers in train, how many of all its numbers are out of range."""

    def edge(step: int) -> str:
        """The lower (0) or upper (1) edge of a positive bin, of a negative one, of zero."""
        return f"""CASE WHEN bin = 0 THEN 0
          WHEN bin > 0 THEN pow(2.0, (bin + {step} - {_ONE}) / {_PER_OCTAVE})
          ELSE -pow(2.0, (-bin + {1 - step} - {_ONE}) / {_PER_OCTAVE}) END"""

    # Where one bin holds both quantiles, the code has one value, as good as: its size stands for its spread.
    # If that is zero (a flag, mostly not set), there is no scale, and no range.
    return f"""CREATE TABLE value_ranges AS
    WITH bins AS (SELECT code, bin, sum(events) AS events, coalesce(sum(events) FILTER (train), 0) AS fitted,
        {edge(0)} AS low, {edge(1)} AS high FROM code_bins WHERE bin IS NOT NULL GROUP BY code, bin),
      ranked AS (SELECT *, sum(fitted) OVER (PARTITION BY code ORDER BY bin) AS upto,
        sum(fitted) OVER (PARTITION BY code) AS total FROM bins),
      quantiles AS (SELECT code, min(low) FILTER (upto >= 0.1 * total) AS q10,
        min(high) FILTER (upto >= 0.9 * total) AS q90 FROM ranked
        WHERE total >= {spec.min_values} AND fitted > 0 GROUP BY code),
      spans AS (SELECT *, greatest(abs(q10), abs(q90)) AS size, q90 - q10 AS span FROM quantiles
        WHERE q10 <> 0 OR q90 <> 0),
      ranges AS (SELECT code, q10 - {spec.spread} * width AS lowest, q90 + {spec.spread} * width AS highest
        FROM (SELECT *, CASE WHEN span < 0.09 * size THEN size ELSE span END AS width FROM spans))
    SELECT code, sum(events)::BIGINT AS numbers,
      coalesce(sum(events) FILTER (high < lowest OR low > highest), 0)::BIGINT AS outside,
      outside / numbers AS outside_share
    FROM bins JOIN ranges USING (code) GROUP BY code"""


def _volume(db: Any, now: Sequence[Path], before: Sequence[Path], min_events: int) -> None:
    """volume: months with enough events in one materialization; how many times as many there are now.

    From the first month there is now (an extract may have been cut) to the last but one there was (the last
    was still growing). A month that has vanished between them has no events now. Births do not count.
    """
    for name, files in (("now", now), ("before", before)):
        db.execute(
            f"""CREATE TABLE months_{name} AS SELECT (12 * year(time) + month(time))::BIGINT AS month,
              count(*) AS events
            FROM {parquet(files)} WHERE time IS NOT NULL AND code <> '{BIRTH}' GROUP BY ALL"""
        )
    db.execute(
        f"""CREATE TABLE volume AS SELECT coalesce(n.events, 0) AS now, b.events AS before,
          coalesce(n.events, 0) / b.events AS ratio
        FROM months_before b LEFT JOIN months_now n USING (month)
        WHERE month >= (SELECT min(month) FROM months_now) AND month < (SELECT max(month) FROM months_before)
          AND greatest(n.events, b.events) >= {min_events}"""
    )


def _code_units(file: Path) -> str:
    """code_units: per code that came with units, the share of its events in other than its commonest unit.

    Letter case and spaces make no other unit; an event without unit says nothing.
    """
    return f"""CREATE TABLE code_units AS
    SELECT code, count(*) AS units, sum(events)::BIGINT AS events,
      1 - max(events) / sum(events) AS other_share
    FROM (SELECT code, lower(replace(unit, ' ', '')) AS unit, sum(rows) AS events
      FROM read_parquet({quoted(str(file))}) WHERE trim(unit) <> '' GROUP BY ALL)
    GROUP BY code"""
