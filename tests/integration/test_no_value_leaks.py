"""No raw value and no subject id stands in logs, events, metadata, MLflow, check results or errors.

A cohort of planted values goes through the whole chain, and others fail in every way there is. Then every
file of the home is searched: also databases, cell by cell.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from planted_values import (
    BROKEN,
    DIVERGES,
    GOOD,
    MARKERS,
    RECIPE,
    ROOT,
    found_in,
    texts,
    write_specs,
    write_tables,
)

# What datasets may hold beside their tables, and why.
WORDS = {"code", "free text"}
MAY_HOLD = {
    "tokenizer.json": (WORDS, "a vocabulary is made of codes, and of what many records say"),
    "profile.html": ({"code"}, "its purpose is to show which codes there are, and how many events of each"),
    "profile.json": ({"code"}, "the same, for machines"),
}

FAILING = [f"{name}/raw_tables {name}/subject_splits {name}/meds_events" for name in BROKEN]
FAILING += [f"{DIVERGES}/checkpoint"]

DRIVER = """
import sys
from dagster import AssetKey
from rich.console import Console
from jobs.cli.main import app
from jobs.cli.running import run_reports
from jobs.cli.project import Project
from jobs.runner import run_assets

report, *failing = sys.argv[1:]
run_reports(Console(), report=report)
instance = Project().instance

def say(entry):
    event = entry.dagster_event
    print(entry.user_message, event.event_specific_data if event else "")

for names in failing:
    keys = [AssetKey(name.split("/")) for name in names.split()]
    print("FINISHED", names, run_assets(instance, keys, say)[1])
app(["status"], standalone_mode=False)
"""


@dataclass
class Searched:
    """A home after a whole run and after several that failed, and all that was printed on the way."""

    home: Path
    said: str


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Searched:
    folder = tmp_path_factory.mktemp("planted")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("EHR_", "DAGSTER_", "MLFLOW_"))}
    env |= {
        "EHR_HOME": str(folder / "home"),
        "DAGSTER_HOME": str(folder / "home" / "dagster"),
        "EHR_SPECS": str(write_specs(folder / "specs")),
        ROOT: str(write_tables(folder / "raw")),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }

    command = [sys.executable, "-c", DRIVER, GOOD, *FAILING]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return Searched(folder / "home", done.stdout + done.stderr)


def test_the_failures_are_those_that_were_meant(searched):
    for names in FAILING:
        assert f"FINISHED {names} False" in searched.said
    for words in (
        "does not look like a header",
        "which has no text form",
        "truncated gzip",
        "quarantine_below_threshold",
        "not finite",
    ):
        assert words in searched.said, words


def test_the_values_are_there_to_be_found(searched):
    """In the tables, where they belong: otherwise this file would prove nothing."""
    (meds,) = (searched.home / "datasets" / GOOD / "meds_events").iterdir()
    events = pl.concat([pl.read_parquet(p) for p in meds.glob("data/*/*.parquet")], how="diagonal_relaxed")
    assert found_in(events.write_csv()) >= {"subject id", "code", "free text", "number", "date"}
    raw = "".join(p.read_text() for p in (searched.home.parent / "raw" / GOOD).iterdir())
    assert found_in(raw) == set(MARKERS)


def test_nothing_that_was_printed_holds_a_value(searched):
    assert found_in(searched.said) == set()


def test_no_store_holds_a_value(searched):
    leaks: dict[str, set[str]] = {}
    seen = set()
    for where, text in texts(searched.home):
        seen.add(where.split("/")[0])
        kinds = found_in(text) - MAY_HOLD.get(Path(where).name, (set(), ""))[0]
        if kinds:
            leaks.setdefault(where, set()).update(kinds)
    assert leaks == {}
    assert {"dagster", "datasets", "mlflow.db"} <= seen


def test_quarantine_names_rows_and_reasons_alone(searched):
    (meds,) = (searched.home / "datasets" / GOOD / "meds_events").iterdir()
    table = pl.read_parquet(meds / "quarantine" / "quarantine.parquet")
    assert table.columns == ["table", "file", "row", "column", "reason"]
    assert table.height >= 5
    assert found_in(table.write_csv()) == set()


def test_a_finished_home_is_its_owners_alone(searched):
    paths = [searched.home, *searched.home.rglob("*")]
    open_to_others = {p.relative_to(searched.home).as_posix() for p in paths if p.stat().st_mode & 0o077}
    assert open_to_others == set()
    assert (searched.home / "datasets" / RECIPE / "checkpoint").is_dir()
