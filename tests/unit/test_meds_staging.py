"""Staged events of tasks that were done again: each is read once, whole, whatever a lost worker left."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehr_assets.meds.staging import STAGED, Stage


def events(first: int, rows: int) -> pl.DataFrame:
    frame = pl.DataFrame({"subject": range(first, first + rows)}, schema={"subject": pl.Int64})
    return frame.with_columns(pl.lit(None, t).alias(c) for c, t in STAGED.items() if c != "subject")


def lost_after(stage: Stage, size: int) -> Path:
    """What stands in the part's file is another worker's, lost when it had written so many bytes."""
    (mine,) = [path for path in stage.files(0) if "lost" not in path.name]
    lost = mine.with_name("00000-lost-1.arrows")
    lost.write_bytes(mine.read_bytes()[:size])
    mine.unlink()
    return lost


def subjects(stage: Stage) -> list[int]:
    whole = sorted(stage.read(0)["subject"].to_list())
    assert sorted(np.repeat(np.arange(99), stage.rows(0, 99)).tolist()) == whole
    return whole


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0])
def test_a_task_done_again_is_read_once(tmp_path, share):
    stage = Stage(tmp_path / "staged")
    stage.add(events(0, 5), np.zeros(5, int), task=0)
    whole = stage.files(0)[0].stat().st_size
    stage.add(events(10, 7), np.zeros(7, int), task=1)
    both = stage.files(0)[0].stat().st_size
    lost_after(stage, whole + int(share * (both - whole)))
    stage.add(events(10, 7), np.zeros(7, int), task=1)
    stage.add(events(20, 3), np.zeros(3, int), task=2)
    assert subjects(stage) == [*range(5), *range(10, 17), *range(20, 23)]


def test_every_place_to_be_cut_off_at(tmp_path):
    stage = Stage(tmp_path / "staged")
    stage.add(events(0, 5), np.zeros(5, int), task=0)
    lost = lost_after(stage, 10**9)
    content = lost.read_bytes()
    stage.add(events(0, 5), np.zeros(5, int), task=0)
    for size in range(0, len(content), 7):
        lost.write_bytes(content[:size])
        assert stage.read(0).height == 5, size


def test_what_was_not_done_again_is_missing_and_not_half_there(tmp_path):
    stage = Stage(tmp_path / "staged")
    stage.add(events(0, 5), np.zeros(5, int), task=0)
    size = stage.files(0)[0].stat().st_size
    lost_after(stage, size - 400)
    assert subjects(stage) == []


def test_dealing_takes_nothing_away(tmp_path):
    stage = Stage(tmp_path / "staged")
    stage.add(events(0, 6), np.zeros(6, int), task=0)
    for attempt in ("lost", "done again"):
        dealt = stage.deal(0, tmp_path / attempt, np.arange(6) % 2)
        assert dealt.read(0)["subject"].to_list() == [0, 2, 4]
        assert dealt.read(1)["subject"].to_list() == [1, 3, 5]
