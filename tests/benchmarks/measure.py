"""Timing two ways of doing the same thing, so that a noisy machine treats both alike; whole processes."""

import contextlib
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One size of a benchmark: what was done how often, and the medians in seconds."""

    size: str
    amount: float
    ours: float
    reference: float


def interleaved(
    ours: Callable[[], object],
    reference: Callable[[], object],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Median seconds of both (wall time, or another clock's), run in turn; one run of each beforehand."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for way, seconds in zip((ours, reference), times, strict=True):
            start = clock()
            way()
            if repeat:
                seconds.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def growth(rows: Sequence[Row], of: Callable[[Row], float]) -> float:
    """The exponent of time over amount, by least squares on logarithms: 1 is linear."""
    x = [math.log(row.amount) for row in rows]
    y = [math.log(of(row)) for row in rows]
    return statistics.linear_regression(x, y).slope


def show(console: Console, title: str, reference: str, unit: str, rows: Sequence[Row]) -> None:
    """Prints a table: seconds, rate and ratio at each size, and how both grow."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("size", unit, "ours", "reference", "reference / ours", f"{unit} per s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.size,
            f"{row.amount:,.0f}",
            f"{row.ours:.3f} s",
            f"{row.reference:.3f} s",
            f"{row.reference / row.ours:.2f}",
            f"{row.amount / row.ours:,.0f}",
        )
    console.print(table)
    console.print(f"reference: {reference}", style="dim")
    if len({row.amount for row in rows}) > 1:
        ours, other = growth(rows, lambda r: r.ours), growth(rows, lambda r: r.reference)
        console.print(f"growth with {unit}: ours ~ n^{ours:.2f}, reference ~ n^{other:.2f}\n", style="dim")


@dataclass(frozen=True)
class Whole:
    """A whole process with its children: wall seconds, and the peak of their memory together (PSS, bytes)."""

    seconds: float
    peak: int


def whole_process(command: Sequence[str], env: Mapping[str, str]) -> Whole:
    """Runs a command and watches it; CalledProcessError if it fails."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, env=dict(env)) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _pss(root))
            time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Whole(time.perf_counter() - start, peak)


def _pss(root: psutil.Process) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total
