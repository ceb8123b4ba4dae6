"""Events to text, and text to tokens: ours against a per-subject pandas loop over the same events."""

import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import polars as pl
from rich.console import Console
from rich.table import Table

from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.fanout import Machine
from ehr_assets.meds.reading import events_of, read_codes
from tests.benchmarks import plain
from tests.benchmarks.world import NAME, World

SUBJECTS = 300
COPIES = 128
"""Tokenization reads the cohort so many times over, in a file each: one is too little to share out. No copy
has the measured values and texts of another, or what is known of the first would be looked up for all."""
REPEATS = 3


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall seconds, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def references(layout: str, codes: pl.DataFrame) -> list[Callable[[pd.DataFrame], dict[int, str]]]:
    """The plain ways: pandas throughout, and one lean pass over tuples."""
    units, names = (dict(codes.select("code", c).drop_nulls().iter_rows()) for c in ("unit", "description"))
    if layout == "smb":
        return [lambda frame: plain.smb_texts(frame, units), lambda frame: plain.smb_texts_lean(frame, units)]
    return [
        lambda frame: plain.tagged_texts(frame, names, units),
        lambda frame: plain.tagged_texts_lean(frame, names, units),
    ]


def main(console: Console, folder: Path) -> None:
    world = World(folder / "world", SUBJECTS)
    codes = read_codes(world.meds)
    subjects = pl.read_parquet(world.meds / "data/*/*.parquet")["subject_id"].unique()
    events = events_of(world.meds, subjects).sort("subject_id", maintain_order=True)
    table = Table(title="Serialization: MEDS events to text", title_justify="left", box=None, pad_edge=False)
    for column in ("format", "events", "ours", "pandas loop", "tuple loop", "pandas / ours", "tuples / ours"):
        table.add_column(column, justify="right")
    pandas = events.to_pandas()
    for layout in ("tagged", "smb"):
        spec = CorpusSpec.model_validate({**world.corpus_spec.model_dump(), "format": layout})
        texts = serialize(events, codes, spec).texts()
        times = [seconds(lambda spec=spec: serialize(events, codes, spec).texts())]
        for loop in references(layout, codes):
            start = time.perf_counter()
            assert list(loop(pandas).values()) == texts, "the texts differ"
            times.append(time.perf_counter() - start)
        rates = [f"{events.height / t:,.0f}/s" for t in times]
        table.add_row(layout, f"{events.height:,}", *rates, *(f"{slow / times[0]:.0f}" for slow in times[1:]))
    console.print(table)
    console.print(
        "equal texts, one per subject; ours in one process; the references take one subject after the other: "
        "pandas throughout, or one lean pass over the rows as Python tuples\n",
        style="dim",
    )
    tokenization(console, world, events)


def another(events: pl.DataFrame, copy: int) -> pl.DataFrame:
    """A cohort of the same shape: other subjects, other measured values (grades stay grades), other texts."""
    value, text = pl.col("numeric_value"), pl.col("text_value")
    return events.with_columns(
        pl.col("subject_id") + copy * 1_000_000,
        pl.when(value == value.round()).then(value).otherwise(value * (1 + copy / 997)).cast(pl.Float32),
        text + pl.lit(f" Copy {copy}."),
    )


def tokenization(console: Console, world: World, events: pl.DataFrame) -> None:
    meds = world.root / "copies"
    (meds / "metadata").mkdir(parents=True)
    (meds / "metadata/codes.parquet").symlink_to(world.meds / "metadata/codes.parquet")
    for split in ("train", "tuning", "held_out"):
        (meds / "data" / split).mkdir(parents=True)
    for copy in range(COPIES):
        other = another(events, copy)
        other.write_parquet(meds / "data" / "train" / f"{copy:03d}.parquet", use_pyarrow=True)
    table = Table(
        title="Serialization and tokenization, to Arrow files",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in (
        "format",
        "workers",
        "events",
        "seconds",
        "events per s",
        "cores",
        "MB per s",
        "times one worker",
    ):
        table.add_column(column, justify="right")
    for layout in ("tagged", "smb"):
        spec = CorpusSpec.model_validate({**world.corpus_spec.model_dump(), "format": layout})
        tokenizer = world.root / f"tokenizer_{layout}"
        tokenizer.mkdir()
        train_tokenizer(spec, {NAME: world.meds}, {NAME: world.splits}, tokenizer)
        alone = None
        for workers in sorted({1, 2, len(os.sched_getaffinity(0))}):
            out = world.root / f"corpus_{layout}_{workers}"
            out.mkdir()
            start, cpu = time.perf_counter(), cpu_seconds()
            machine = Machine(workers, 64 << 30)
            done = write_corpus(spec, {NAME: meds}, tokenizer, out, machine=machine)["events"]
            took, cpu = time.perf_counter() - start, cpu_seconds() - cpu
            written = sum(f.stat().st_size for f in out.rglob("*.arrow"))
            shutil.rmtree(out)
            alone = alone or took
            table.add_row(
                layout,
                str(workers),
                f"{done:,}",
                f"{took:.1f}",
                f"{done / took:,.0f}",
                f"{cpu / took:.1f}",
                f"{written / took / 1e6:,.0f}",
                f"{alone / took:.2f}",
            )
    console.print(table)
    console.print(
        "one run each, starting the workers included; cores: processor seconds by wall seconds; MB: of Arrow "
        "files\n",
        style="dim",
    )
