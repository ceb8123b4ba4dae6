"""`python -m tests.soak --rounds 20 [--training]`: a table of all rounds, and what is not as it should be."""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.judge import memory_slope, troubles
from tests.soak.rounds import STORES, Round, rounds

STATED = (*STORES[:3], "mlflow")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--training", action="store_true", help="up to the checkpoint, not the corpus alone")
    given = parser.parse_args()
    console, done = Console(width=110), []
    with tempfile.TemporaryDirectory(prefix="ehr-soak-") as folder:
        for one in rounds(Path(folder), given.rounds, training=given.training):
            done.append(one)
            console.print(f"round {one.number}: {one.seconds:.1f} s, {one.memory >> 20} MB", style="dim")
    console.print(table(done))
    if len(done) < 4:
        console.print("Fewer than four rounds say nothing about growth.")
        return 0
    console.print(f"memory: {memory_slope(done) / 2**20:+.2f} MB per round after the first two")
    found = troubles(done)
    for line in found:
        console.print(f"✗ {line}", style="red")
    return bool(found)


def table(done: list[Round]) -> Table:
    """A line per round: the process, then what each store holds, in kB."""
    made = Table(title="Repeated retrainings in one process", title_justify="left", box=None, pad_edge=False)
    for column in ("round", "raw table", "s", "MB", "files", "threads", "made", *(f"{s} kB" for s in STATED)):
        made.add_column(column, justify="right")
    for r in done:
        sizes = (f"{r.sizes[name] / 1000:,.0f}" for name in STATED)
        kind = "changed" if r.changed else "same"
        process = (f"{r.seconds:.1f}", f"{r.memory >> 20}", str(r.files), str(r.threads))
        made.add_row(str(r.number), kind, *process, str(r.datasets), *sizes)
    return made


if __name__ == "__main__":
    sys.exit(main())
