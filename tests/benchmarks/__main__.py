"""Runs the benchmarks named on the command line, or all."""

import importlib
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

ALL = tuple(sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py")))


def run(names: list[str]) -> int:
    console = Console()
    unknown = set(names) - set(ALL)
    if unknown:
        console.print(f"There is no benchmark {', '.join(sorted(unknown))}. There are: {', '.join(ALL)}.")
        return 2
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found nothing better
    for name in names or ALL:
        with tempfile.TemporaryDirectory(prefix="ehr-bench-") as folder:
            importlib.import_module(f"tests.benchmarks.bench_{name}").main(console, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
