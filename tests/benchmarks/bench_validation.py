"""The MEDS suite by Great Expectations against plain DuckDB statements that count the same.

`EHR_BENCH_EVENTS` (numbers separated by commas) replaces the sizes: 50000000 is that of a hospital.
"""

import os
import threading
from pathlib import Path

import duckdb
import psutil
import pyarrow.parquet as pq
from rich.console import Console

from ehr_assets.contracts import SPLITS
from ehr_assets.fanout import Machine
from ehr_assets.meds.frames import MEDS_SCHEMA
from ehr_assets.meds.quality_spec import QualitySpec
from ehr_assets.meds.suites import validate
from tests.benchmarks.measure import Row, interleaved, show

SIZES = (1_000_000, 4_000_000, 16_000_000)
LARGE = 50_000_000
PER_SUBJECT = 170
SHARD_SUBJECTS = 2_000
QUALITY = QualitySpec.model_validate(
    {
        "window": {"first": "1999-01-01", "last": "2009-12-31"},
        "values": {"min_values": 100, "spread": 5, "tolerance": 0.01},
    }
)


def sizes() -> tuple[int, ...]:
    given = os.environ.get("EHR_BENCH_EVENTS", "")
    return tuple(int(n) for n in given.split(",")) if given else SIZES


def make_frame(root: Path, events: int) -> Path:
    """A MEDS dataset of `events` rows: a static row, a birth, then numbers, texts and bare events of 3,000
    codes
    over ten years; every fifth subject dies."""
    subjects = events // PER_SUBJECT
    db = duckdb.connect()
    for number, start in enumerate(range(0, subjects, SHARD_SUBJECTS)):
        split = SPLITS[(0, 0, 0, 0, 1, 2)[number % 6]]
        path = root / "data" / split / f"{number:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = db.execute(
            f"""SELECT * FROM (
              SELECT s AS subject_id,
                CASE k WHEN 0 THEN NULL WHEN 1 THEN TIMESTAMP '1950-01-01' ELSE
                  TIMESTAMP '2000-01-01' + to_hours((k * 500 + hash(s, k) % 400)::INT) END AS time,
                CASE WHEN k = 0 THEN 'GENDER//F' WHEN k = 1 THEN 'MEDS_BIRTH'
                  WHEN k = {PER_SUBJECT} - 2 AND s % 5 = 0 THEN 'MEDS_DEATH'
                  ELSE 'LAB//' || (hash(s, k) % 3000) || '//mg/dL' END AS code,
                CASE WHEN k > 1 AND hash(k, s) % 10 < 6 THEN 10 + hash(k, s, 1) % 1000 / 10 END
                  AS numeric_value,
                CASE WHEN k > 1 AND hash(k, s) % 20 = 7 THEN 'a finding in words, number ' || k END
                  AS text_value,
                CASE WHEN k > 0 THEN time + to_hours((hash(s, k, 2) % 72)::INT) END AS available_time,
                CASE WHEN k < 2 THEN 'demographics' ELSE 'measurements' END AS section
              FROM (SELECT unnest(range({start}, {min(subjects, start + SHARD_SUBJECTS)})) AS s),
                (SELECT unnest(range({PER_SUBJECT})) AS k))
            ORDER BY subject_id, time NULLS FIRST, available_time, code, numeric_value NULLS FIRST"""
        ).to_arrow_table()
        pq.write_table(rows.select(MEDS_SCHEMA.names).cast(MEDS_SCHEMA), path, compression="zstd")
    (root / "metadata").mkdir()
    all_files = f"read_parquet('{root}/data/*/*.parquet')"
    for name, columns in (("codes", "code"), ("subject_splits", "subject_id, 'train' AS split")):
        db.execute(f"COPY (SELECT DISTINCT {columns} FROM {all_files}) TO '{root}/metadata/{name}.parquet'")
    return root


def plain(root: Path, workers: int) -> dict[str, tuple]:
    """The same statistics, as somebody who knows DuckDB would ask for them: no Great Expectations, no checks,
    no memory limit, each kind of statistic one statement over all files and all threads.

    Order and duplicates need neighbours. DuckDB's streaming window runs in one thread, so it is asked file by
    file in as many threads as the machine has, which is the fastest way known to us.
    """
    from concurrent.futures import ThreadPoolExecutor

    db = duckdb.connect(config={"threads": workers})
    events = f"read_parquet('{root}/data/*/*.parquet')"
    found = {
        "rows": db.execute(
            f"""SELECT count(*), count(*) FILTER (subject_id IS NULL), count(*) FILTER (code IS NULL),
              count(*) FILTER (section IS NULL),
              count(*) FILTER (section NOT IN ('demographics', 'conditions', 'measurements', 'observations',
                'procedures', 'drugs', 'notes', 'death')),
              count(*) FILTER (available_time < time),
              count(*) FILTER ((time IS NULL) <> (available_time IS NULL)),
              count(*) FILTER (time IS NULL AND section <> 'demographics'),
              count(*) FILTER (NOT isfinite(numeric_value)),
              count(*) FILTER (code <> 'MEDS_BIRTH'
                AND (time < DATE '1999-01-01' OR time >= DATE '2010-01-01'))
            FROM {events}"""
        ).fetchone()
    }

    def neighbours(path: Path) -> tuple:
        return (
            db.cursor()
            .execute(
                f"""SELECT count(*) FILTER (s0 > subject_id OR (s0 = subject_id AND t0 > time)),
                  count(*) FILTER (h = h0)
                FROM (SELECT *, lag(subject_id) OVER () s0, lag(time) OVER () t0, lag(h) OVER () h0
                  FROM (SELECT subject_id, time, hash(subject_id, time, code, numeric_value, text_value,
                    available_time, section) AS h FROM read_parquet('{path}')))"""
            )
            .fetchone()
        )

    with ThreadPoolExecutor(workers) as pool:
        counts = list(pool.map(neighbours, sorted(root.glob("data/*/*.parquet"))))
    found["neighbours"] = tuple(map(sum, zip(*counts, strict=True)))
    db.execute(
        f"""CREATE TABLE subjects AS SELECT subject_id, count(DISTINCT file_index) AS files,
          count(*) FILTER (code = 'MEDS_BIRTH') AS births, count(*) FILTER (code = 'MEDS_DEATH') AS deaths,
          min(time) < min(time) FILTER (code = 'MEDS_BIRTH') AS early, max(time) AS last,
          min(time) FILTER (code = 'MEDS_DEATH') AS death
        FROM {events} GROUP BY subject_id"""
    )
    found["subjects"] = db.execute(
        f"""SELECT count(*), count(*) FILTER (files > 1), count(*) FILTER (births > 1),
          count(*) FILTER (deaths > 1), count(*) FILTER (early),
          count(*) FILTER (last > death + INTERVAL 30 DAY),
          count(*) FILTER (subject_id NOT IN
            (SELECT subject_id FROM '{root}/metadata/subject_splits.parquet'))
        FROM subjects"""
    ).fetchone()
    found["after death"] = db.execute(
        f"""SELECT count(*) FROM {events} e JOIN subjects s ON e.subject_id = s.subject_id
          AND e.time > s.death + INTERVAL 30 DAY"""
    ).fetchone()
    db.execute(
        f"""CREATE TABLE codes AS SELECT code,
          count(numeric_value) FILTER (contains(filename, '/train/')) AS n,
          approx_quantile(numeric_value, [0.1, 0.9]) FILTER (contains(filename, '/train/')) AS q
        FROM read_parquet('{root}/data/*/*.parquet', filename = true) GROUP BY code"""
    )
    found["codes"] = db.execute(
        f"""SELECT count(*), count(*) FILTER (code NOT IN (SELECT code FROM '{root}/metadata/codes.parquet'))
        FROM codes"""
    ).fetchone()
    found["values"] = db.execute(
        f"""SELECT count(*) FILTER (share > 0.01), count(*) FROM (
          SELECT avg((numeric_value < q[1] - 5 * (q[2] - q[1])
            OR numeric_value > q[2] + 5 * (q[2] - q[1]))::INT) AS share
          FROM {events} JOIN (SELECT code, q FROM codes WHERE n >= 100) USING (code)
          WHERE numeric_value IS NOT NULL GROUP BY code)"""
    ).fetchone()
    return found


class Peak:
    """The largest resident memory of this process while it is open, in bytes, above what it had at first."""

    def __enter__(self) -> "Peak":
        self._process, self._stop = psutil.Process(), threading.Event()
        self.first = self.most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def main(console: Console, folder: Path) -> None:
    rows, machine = [], Machine.from_env()
    for events in sizes():
        root = make_frame(folder / str(events), events)

        def ours(root=root) -> dict[str, dict]:
            return {v.name: dict(v.counts) for v in validate(root, QUALITY, machine)}

        def reference(root=root) -> dict[str, tuple]:
            return plain(root, machine.workers)

        with Peak() as peak:
            mine = ours()
        theirs = reference()
        _same(mine, theirs)
        rows.append(Row(f"{events:,} events", theirs["rows"][0], *interleaved(ours, reference, repeats=5)))
        console.print(f"{events:,} events: peak memory {peak.most / 2**30:.2f} GB", style="dim")
    show(
        console,
        "Validation: the MEDS suite by Great Expectations, within a memory budget",
        "plain DuckDB statements that count the same; no memory limit",
        "events",
        rows,
    )
    for row in rows:
        console.print(f"{row.size}: ours / reference {row.ours / row.reference:.2f}", style="dim")
    if LARGE not in sizes():
        console.print(f"{LARGE:,} events take minutes more: EHR_BENCH_EVENTS={LARGE}\n", style="dim")


def _same(mine: dict[str, dict], theirs: dict[str, tuple]) -> None:
    """Both counted the same things (value ranges, from quantiles of two kinds, only the same codes)."""
    of_rows = ("subject_id_present", "code_present", "section_present", "section_known",
               "available_not_before_time", "availability_known", "static_rows_are_demographics",
               "numbers_finite", "within_extraction_window")  # fmt: skip
    assert theirs["rows"] == (mine["events_not_empty"]["checked"], *(mine[n]["unexpected"] for n in of_rows))
    sorted_, twice = mine["sorted_by_subject_and_time"], mine["few_exact_duplicates"]
    assert theirs["neighbours"] == (sorted_["events_out_of_order"], twice["repeated"])
    of_subjects = ("subject_in_one_file", "one_birth_at_most", "one_death_at_most", "nothing_before_birth",
                   "nothing_long_after_death", "subjects_have_a_split")  # fmt: skip
    assert theirs["subjects"] == (
        mine["subject_in_one_file"]["checked"],
        *(mine[n]["unexpected"] for n in of_subjects),
    )
    assert theirs["after death"] == (mine["nothing_long_after_death"]["events_after_death_and_grace"],)
    assert theirs["codes"] == (mine["codes_listed"]["checked"], mine["codes_listed"]["unexpected"])
    ranges = mine["values_in_train_range"]
    assert theirs["values"] == (ranges["unexpected"], ranges["checked"])
