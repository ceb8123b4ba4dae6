"""Raw MIMIC-IV tables to MEDS at 1, 4 and 16 times the open demo: how time and peak memory grow.

Needs the demo in EHR_MIMIC_IV_ROOT. The copies have new subject, admission and stay ids. Each size is a
process of its own, with the workers that it starts; memory is that of all of them together.
"""

import gzip
import os
import sys
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from ehr_assets.catalog import BUILT_IN
from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.fanout import Machine
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from tests.benchmarks.measure import Row, growth, whole_process

COPIES = (1, 4, 16)
IDS = ("subject_id", "hadm_id", "stay_id", "transfer_id", "emar_id", "poe_id", "pharmacy_id", "note_id")
SPEC = BUILT_IN["cohorts"] / "mimic_iv.yaml"


def replicate(source: Path, target: Path, copies: int) -> int:
    """Writes `copies` times the tables of `source`; returns the records of those with subjects."""
    records = 0
    for path in sorted(source.glob("*/*.csv.gz")):
        out = target / path.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        frame = pl.read_csv(path, infer_schema=False)
        if "subject_id" not in frame.columns:
            out.symlink_to(path)
            continue
        records += frame.height * copies
        ids = [c for c in IDS if c in frame.columns]
        with gzip.open(out, "wb", compresslevel=1) as stream:
            for copy in range(copies):
                # Ten digits are more than any id of MIMIC-IV has; some are text with the subject in front.
                moved = frame.with_columns(
                    pl.when(pl.col(c).is_not_null())
                    .then(pl.lit(f"{copy + 1}0") + pl.col(c).str.zfill(10))
                    .alias(c)
                    if copy
                    else pl.col(c)
                    for c in ids
                )
                stream.write(moved.write_csv(include_header=not copy).encode())
    return records


def extract(root: Path, out: Path) -> None:
    spec = load_cohort(SPEC)
    for part in ("splits", "meds"):
        (out / part).mkdir(parents=True)
    write_splits(spec, root, out / "splits")
    extract_meds(spec, root, out / "splits", out / "meds", machine=Machine.from_env())


def main(console: Console, folder: Path) -> None:
    source = os.environ.get("EHR_MIMIC_IV_ROOT")
    if not source:
        console.print("scaling: skipped, EHR_MIMIC_IV_ROOT does not name the MIMIC-IV demo\n", style="yellow")
        return
    rows, peaks = [], {}
    for copies in COPIES:
        root, out = folder / f"raw-{copies}", folder / f"out-{copies}"
        records = replicate(Path(source), root, copies)
        command = [sys.executable, "-m", "tests.benchmarks.bench_scaling", str(root), str(out)]
        found = whole_process(command, os.environ)
        rows.append(Row(f"{copies}×", records, found.seconds, found.seconds))
        peaks[f"{copies}×"] = found.peak
    machine = Machine.from_env()
    title = f"Extraction of MIMIC-IV, gzipped, {machine.workers} workers, {machine.memory_bytes >> 20} MB"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("size", "raw records", "time", "records per s", "peak memory"):
        table.add_column(column, justify="right")
    for row in rows:
        rate, peak = f"{row.amount / row.ours:,.0f}", f"{peaks[row.size] >> 20:,} MB"
        table.add_row(row.size, f"{row.amount:,.0f}", f"{row.ours:.1f} s", rate, peak)
    console.print(table)
    last, before = rows[-1].size, rows[-2].size
    console.print(
        f"growth with records: n^{growth(rows, lambda r: r.ours):.2f}; from {before} to {last}, where "
        f"starting the workers counts for little: n^{growth(rows[-2:], lambda r: r.ours):.2f}; "
        f"peak of {last} / peak of {before}: {peaks[last] / peaks[before]:.2f}\n",
        style="dim",
    )


if __name__ == "__main__":
    extract(Path(sys.argv[1]), Path(sys.argv[2]))
