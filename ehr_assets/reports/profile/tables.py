"""What the profile page of a cohort shows, counted by DuckDB over its MEDS files within the memory budget.

Three passes: per subject; over all events into a small cube; per code. Nothing here names a subject, and
codes seen in fewer than `FEWEST` subjects are left out: with their description they could tell who it was.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ehr_assets.contracts import BIRTH, DEATH, SECTIONS, SPLITS
from ehr_assets.expectations import parquet, quoted, workbench
from ehr_assets.fanout import Machine
from ehr_assets.meds.frames import UNITS_FILE, event_files
from ehr_assets.reports.small_cells import FEWEST

TOP_CODES = 30
_CANDIDATES = 300
LAGS = ("at once", "within a day", "within a week", "within a month", "later")
OLDEST = 90
"""Ages from here on are one group, as HIPAA has it."""


@dataclass(frozen=True)
class Code:
    """A frequent code: its events, and the subjects who have it."""

    code: str
    description: str | None
    section: str
    events: int
    subjects: int


@dataclass(frozen=True)
class Profile:
    """The numbers of the page.

    Attributes:
        totals: subjects, subjects_without_events, events, codes, deaths, quarantined, read, …
        years: section → year → events (timed ones; births are left out).
        codes: the most frequent, most frequent first.
        with_section: section → share of subjects with at least one event of it.
        measurements: what measurement events lack → share of them; `unit` only where it is known.
        follow_up: split → subjects per bin of years from first to last event (births left out); the bins lie
            between `follow_up_edges`.
        ages: sex → subjects per ten years of age at the first event, the last from 90 on; sexes of fewer than
            `FEWEST` subjects together.
        splits: split → subjects.
        quarantine: reason → rows, most first.
        lags: section → events per delay of `LAGS` until they were known.
    """

    totals: dict[str, int | float | None]
    years: dict[str, dict[int, int]]
    codes: list[Code]
    with_section: dict[str, float]
    measurements: dict[str, float | None]
    follow_up: dict[str, list[int]]
    follow_up_edges: list[float]
    ages: dict[str, list[int]]
    splits: dict[str, int]
    quarantine: dict[str, int]
    lags: dict[str, list[int]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def count_profile(meds_dir: Path, machine: Machine) -> Profile:
    """Reads a meds_events directory. A cohort without events has zeros."""
    files = [f for split in event_files(meds_dir).values() for f in split]
    with workbench(machine) as bench, bench.connect() as db:
        db.execute(f"CREATE VIEW events AS SELECT * FROM {parquet(files)}")
        splits = meds_dir / "metadata" / "subject_splits.parquet"
        db.execute(f"CREATE VIEW splits AS SELECT * FROM {parquet([splits])}")
        _per_subject(db)
        _cube(db)
        codes = meds_dir / "metadata" / "codes.parquet"
        # MEDS leaves the description optional.
        described = "description" if "description" in pq.read_schema(codes).names else "NULL AS description"
        db.execute(f"CREATE VIEW codes AS SELECT code, {described} FROM {parquet([codes])}")
        edges = _follow_up_edges(db)
        return Profile(
            totals=_totals(db, meds_dir),
            years=_years(db),
            codes=_codes(db),
            with_section=_with_section(db),
            measurements=_measurements(db, meds_dir),
            follow_up={s: _histogram(db, edges, s) for s in SPLITS},
            follow_up_edges=edges,
            ages=_ages(db),
            splits=_pairs(db, "SELECT split, count(*) FROM splits GROUP BY split", SPLITS),
            quarantine=_quarantine(db, meds_dir),
            lags=_lags(db),
        )


def _per_subject(db: Any) -> None:
    sections = ", ".join(f"bool_or(section = '{s}') AS has_{s}" for s in SECTIONS)
    timed = f"time IS NOT NULL AND code <> '{BIRTH}'"
    db.execute(
        f"""CREATE TABLE subjects AS SELECT subject_id, count(*) AS events, {sections},
          min(time) FILTER ({timed}) AS first, max(time) FILTER ({timed}) AS last,
          min(time) FILTER (code = '{BIRTH}') AS birth, bool_or(code = '{DEATH}') AS died,
          min(substr(code, 9)) FILTER (code LIKE 'GENDER//%') AS sex
        FROM events GROUP BY subject_id"""
    )


def _cube(db: Any) -> None:
    db.execute(
        f"""CREATE TABLE cube AS SELECT section, year(time) AS year, code = '{BIRTH}' AS is_birth,
          CASE WHEN time IS NULL THEN NULL WHEN available_time <= time THEN 0
            WHEN available_time <= time + INTERVAL 1 DAY THEN 1
            WHEN available_time <= time + INTERVAL 7 DAY THEN 2
            WHEN available_time <= time + INTERVAL 30 DAY THEN 3 ELSE 4 END AS lag,
          numeric_value IS NULL AS no_number, text_value IS NULL AS no_text, count(*) AS events
        FROM events GROUP BY ALL"""
    )


def _totals(db: Any, meds_dir: Path) -> dict[str, int | float | None]:
    names = ("subjects", "events", "median", "p90", "deaths", "first_year", "last_year")
    row = db.execute(
        """SELECT count(*), coalesce(sum(events), 0)::BIGINT, median(events), quantile_cont(events, 0.9),
          count(*) FILTER (died), min(year(first)), max(year(last)) FROM subjects"""
    ).fetchone()
    found = dict(zip(names, row, strict=True))
    in_roster = db.execute("SELECT count(*) FROM splits").fetchone()[0]
    codes = db.execute("SELECT count(*) FROM codes").fetchone()[0]
    found |= {"in_roster": in_roster, "codes": codes, "read": None, "quarantined": None}
    accounting = meds_dir / "accounting.parquet"
    if accounting.is_file():
        counts = f"SELECT sum(read)::BIGINT, sum(quarantined)::BIGINT FROM {parquet([accounting])}"
        found["read"], found["quarantined"] = db.execute(counts).fetchone()
    return found


def _years(db: Any) -> dict[str, dict[int, int]]:
    rows = db.execute(
        """SELECT section, year, sum(events)::BIGINT FROM cube WHERE year IS NOT NULL AND NOT is_birth
        GROUP BY ALL ORDER BY section, year"""
    ).fetchall()
    return {
        s: {y: n for section, y, n in rows if section == s} for s in SECTIONS if any(r[0] == s for r in rows)
    }


def _codes(db: Any) -> list[Code]:
    """The most frequent codes of at least `FEWEST` subjects (of the `_CANDIDATES` with the most events)."""
    rows = db.execute(
        f"""WITH frequent AS (SELECT code, count(*) AS events FROM events GROUP BY code
            ORDER BY events DESC, code LIMIT {_CANDIDATES})
        SELECT code, min(description), min(section), min(f.events), count(DISTINCT subject_id) AS subjects
        FROM events JOIN frequent f USING (code) LEFT JOIN codes USING (code)
        GROUP BY code HAVING subjects >= {FEWEST} ORDER BY min(f.events) DESC, code LIMIT {TOP_CODES}"""
    ).fetchall()
    return [Code(*row) for row in rows]


def _with_section(db: Any) -> dict[str, float]:
    shares = ", ".join(f"coalesce(avg(has_{s}::INT), 0)" for s in SECTIONS)
    return dict(zip(SECTIONS, db.execute(f"SELECT {shares} FROM subjects").fetchone(), strict=True))


def _measurements(db: Any, meds_dir: Path) -> dict[str, float | None]:
    number, text, either = db.execute(
        """SELECT sum(events) FILTER (no_number) / sum(events), sum(events) FILTER (no_text) / sum(events),
          sum(events) FILTER (no_number AND no_text) / sum(events) FROM cube WHERE section = 'measurements'"""
    ).fetchone()
    any_row = db.execute("SELECT count(*) FROM cube WHERE section = 'measurements'").fetchone()[0]
    found = {"number": number, "text": text, "number and text": either}
    shares = {k: (v or 0.0) if any_row else None for k, v in found.items()}
    return {**shares, "unit": _without_unit(db, meds_dir)}


def _without_unit(db: Any, meds_dir: Path) -> float | None:
    """The share of measurement events without unit; None for a dataset that does not keep the units."""
    units = meds_dir / UNITS_FILE
    if not units.is_file():
        return None
    return db.execute(
        f"""WITH measured AS (SELECT DISTINCT code FROM events WHERE section = 'measurements')
        SELECT coalesce(sum(rows) FILTER (unit IS NULL) / sum(rows), 0)
        FROM read_parquet({quoted(str(units))}) JOIN measured USING (code)"""
    ).fetchone()[0]


_YEARS = "date_diff('day', first, last) / 365.25"


def _follow_up_edges(db: Any, bins: int = 20) -> list[float]:
    longest = db.execute(f"SELECT max({_YEARS}) FROM subjects").fetchone()[0] or 0.0
    step = next(s for s in (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0) if s * bins >= min(longest, 200))
    return [round(step * i, 4) for i in range(bins + 1)]


def _histogram(db: Any, edges: list[float], split: str) -> list[int]:
    rows = db.execute(
        f"""SELECT least(floor({_YEARS} / {edges[1]}), {len(edges) - 2})::INT AS bin, count(*)
        FROM subjects JOIN splits USING (subject_id)
        WHERE split = '{split}' AND first IS NOT NULL GROUP BY bin"""
    ).fetchall()
    return [dict(rows).get(i, 0) for i in range(len(edges) - 1)]


def _ages(db: Any) -> dict[str, list[int]]:
    """Sexes are raw texts: those of few subjects are shown as "other"."""
    rows = db.execute(
        f"""WITH aged AS (SELECT sex,
            greatest(least(floor(date_diff('day', birth, first) / 3652.5), {OLDEST // 10}), 0)::INT AS age
          FROM subjects WHERE birth IS NOT NULL AND first IS NOT NULL),
        known AS (SELECT sex FROM aged GROUP BY sex HAVING count(*) >= {FEWEST})
        SELECT CASE WHEN sex IS NULL THEN 'not recorded' WHEN sex IN (SELECT sex FROM known) THEN sex
          ELSE 'other' END AS shown, age, count(*) FROM aged GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    return {
        sex: [sum(n for s, b, n in rows if (s, b) == (sex, i)) for i in range(OLDEST // 10 + 1)]
        for sex in dict.fromkeys(r[0] for r in rows)
    }


def _quarantine(db: Any, meds_dir: Path) -> dict[str, int]:
    path = meds_dir / "quarantine" / "quarantine.parquet"
    if not path.is_file():
        return {}
    return _pairs(
        db, f"SELECT reason, count(*) AS n FROM {parquet([path])} GROUP BY reason ORDER BY n DESC, reason"
    )


def _lags(db: Any) -> dict[str, list[int]]:
    rows = db.execute(
        """SELECT section, lag, sum(events)::BIGINT FROM cube WHERE lag IS NOT NULL AND NOT is_birth
        GROUP BY ALL"""
    ).fetchall()
    counts = {(section, lag): n for section, lag, n in rows}
    sections = [s for s in SECTIONS if any(section == s for section, _ in counts)]
    return {s: [counts.get((s, i), 0) for i in range(len(LAGS))] for s in sections}


def _pairs(db: Any, sql: str, order: tuple[str, ...] = ()) -> dict[str, int]:
    found = dict(db.execute(sql).fetchall())
    return {k: found.get(k, 0) for k in order} if order else found
