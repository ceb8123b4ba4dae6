"""A cohort whose every raw value can be recognized, and a search for those values in all that a home holds.

Subject ids, codes, free text, numbers and dates are such as stand nowhere else. `write_tables` plants them,
also in rows and files that cannot be read; `found_in` looks for them.
"""

import contextlib
import copy
import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from made_up import RELAPSE, SPECS

ROOT = "EHR_PLANTED_ROOT"
FIRST_ID = 918_273_001
MARKERS = {
    "subject id": re.compile(r"9182730\d\d"),
    "person key": re.compile(r"(?i)zqxperson"),
    "code": re.compile(r"(?i)zqxcode"),
    "free text": re.compile(r"(?i)zqxtext"),
    "number": re.compile(r"7351[.,]2\d"),
    "date": re.compile(r"\b193[1-3]-[01]\d-[0-3]\d|\b193[1-3]/[01]\d"),
    "unreadable cell": re.compile(r"(?i)zqxbad"),
}
TASKS = [
    {"name": "relapse_120d", "horizon_days": 120, "outcome": RELAPSE},
    {"name": "never_120d", "horizon_days": 120, "outcome": {"codes": ["^NO_SUCH_CODE$"]}},
]
GOOD, RECIPE, DIVERGES = "planted", "planted_sft", "planted_nan"
BROKEN = ("no_header", "no_text", "torn", "too_many_bad")


def write_specs(folder: Path) -> Path:
    """The good cohort with its whole chain, the broken ones, and a recipe whose loss overflows."""
    cohort = copy.deepcopy(SPECS["cohorts"])
    cohort["source"]["root_env"] = ROOT
    cohort["subjects"] |= {"person_key": "person"}
    cohort["quarantine_threshold"] = 0.2
    cohort["baselines"] = {"bootstrap": 5, "min_positives": 3, "methods": ["logistic"]}
    for table in cohort["tables"]:
        table["file"] = f"{GOOD}/{table['file']}"
    (event,) = cohort["tables"][1]["events"]
    event["text_value"] = "note"
    recipe = SPECS["recipes"] | {"corpus": GOOD, "embedding": {"max_tokens": 128}}
    recipe["probe"] = {"bootstrap": 5, "min_positives": 3}
    specs = {
        f"cohorts/{GOOD}": cohort,
        f"tasks/{SPECS['cohorts']['decision_nodes']['task_set']}": {
            "tasks": [{"category": "Planted", "description": task["name"], **task} for task in TASKS]
        },
        f"corpora/{GOOD}": SPECS["corpora"] | {"cohorts": [GOOD]},
        f"recipes/{RECIPE}": recipe,
        f"recipes/{DIVERGES}": recipe | {"optimizer": {"lr": 1e30, "clip": 1e30}},
        f"reports/{GOOD}": SPECS["reports"] | {"recipes": [RECIPE], "cohorts": [GOOD]},
    }
    for name in BROKEN:
        broken = copy.deepcopy(cohort) | {"decision_nodes": None, "baselines": {}}
        broken |= {"quarantine_threshold": 0.001, "quality": {"window": {"last": "1930-12-31"}}}
        for table in broken["tables"]:
            table["file"] = table["file"].replace(GOOD, name)
        specs[f"cohorts/{name}"] = {k: v for k, v in broken.items() if v not in (None, {})}
    for name, spec in specs.items():
        kind, stem = name.split("/")
        (folder / kind).mkdir(parents=True, exist_ok=True)
        named = spec if kind == "tasks" else {"name": stem, **spec}
        (folder / kind / f"{stem}.yaml").write_text(yaml.safe_dump(named, sort_keys=False))
    return folder


def write_tables(root: Path, subjects: int = 60) -> Path:
    """The raw tables of all these cohorts."""
    rng = np.random.default_rng(5)
    people, records = ["pid,person,sex,born,died"], ["pid,time,code,number,note"]
    for i in range(subjects):
        subject, severity = FIRST_ID + i, rng.normal()
        days = {f"KIND/{'AB'[i % 2]}": [0.5], "VISIT": [40.0, 170.0, 300.0]}
        days["MARKER"] = sorted(rng.uniform(1, 400, 12).tolist())
        days["ZQXCODE/SEEN"] = [20.0, 200.0]
        days["RELAPSE"] = [v + rng.uniform(5, 110) for v in (40, 170, 300) if rng.normal() < severity]
        days["CONTACT"] = [700.0]
        people.append(f"{subject},zqxperson{i},{'FM'[i % 2]},{1870 + i % 30},")
        for code, at in days.items():
            for day in at:
                number = f"7351.2{rng.integers(10, 99)}" if code in ("MARKER", "ZQXCODE/SEEN") else ""
                records.append(f"{subject},{_time(day)},{code},{number},zqxtext {i}")
    bad = [
        f"{FIRST_ID},zqxbadtime,ZQXCODE/X,1,a",
        f"{FIRST_ID},{_time(3)},ZQXCODE/X,zqxbadnumber,a",
        f"zqxbadid,{_time(3)},ZQXCODE/X,1,a",
        f"{FIRST_ID + 99},{_time(3)},ZQXCODE/X,1,a",
        f"{FIRST_ID},{_time(3)},ZQXCODE/X,1,zqxbad,too,many,fields",
        f"{FIRST_ID},1932/13/45,ZQXCODE/X,1,a",
    ]
    for name in (GOOD, *BROKEN):
        (root / name).mkdir(parents=True)
        header = [] if name == "no_header" else people[:1]
        (root / name / "people.csv").write_text("\n".join(header + people[1:]) + "\n")
        rows = bad * 40 if name == "too_many_bad" else bad
        if name not in ("no_text", "torn"):
            (root / name / "records.csv").write_text("\n".join([*records, *rows]) + "\n")
    cells = [[f"zqxtext {i}"] for i in range(subjects)]
    columns = {n: pa.array(cells) for n in records[0].split(",")}
    pq.write_table(pa.table(columns), root / "no_text" / "records.parquet")
    packed = gzip.compress("\n".join([*records, *bad]).encode())
    (root / "torn" / "records.csv.gz").write_bytes(packed[: len(packed) // 2])
    return root


def _time(day: float) -> str:
    return str(np.datetime64("1931-01-05T00:00:00") + np.timedelta64(int(day * 86400), "s")).replace("T", " ")


def found_in(text: str) -> set[str]:
    """The kinds of marker in a text."""
    return {kind for kind, form in MARKERS.items() if form.search(text)}


def texts(home: Path) -> Iterator[tuple[str, str]]:
    """(where, text) of everything under a home that is not a table of rows: databases cell by cell, unpacked.

    The bytes of each file count as a text of their own: databases keep what was deleted.
    """
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        name = path.relative_to(home).as_posix()
        if path.suffix in (".parquet", ".arrow", ".npy", ".safetensors"):
            continue
        content = path.read_bytes()
        yield name, content.decode("utf-8", errors="replace")
        if content.startswith(b"SQLite format 3"):
            yield from _cells(path, name)


def _cells(path: Path, name: str) -> Iterator[tuple[str, str]]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in db.execute(f'SELECT * FROM "{table}"'):
                for cell in row:
                    yield f"{name}: {table}", _decoded(cell)


def _decoded(cell: object) -> str:
    if not isinstance(cell, bytes):
        return json.dumps(cell) + "\n" + str(cell)
    with contextlib.suppress(zlib.error):
        cell = zlib.decompress(cell)  # as Dagster keeps its snapshots
    return cell.decode("utf-8", errors="replace")
