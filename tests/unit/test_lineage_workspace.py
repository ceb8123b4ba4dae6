"""Work folders: one owner at a time, kept whatever happens, gone once what they were for is committed."""

import multiprocessing
import time

import pytest

from ehr_assets.errors import DatasetError
from ehr_assets.lineage import workspace
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.workspace import Workspace, sharing

said: list[str] = []
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path):
    return DatasetStore(tmp_path)


def test_the_same_making_finds_its_folder_again_and_another_does_not(store):
    with store.workspace("r/checkpoint", ["code", "inputs"], said.append) as work:
        (work.open() / "state").write_text("half")
    with store.workspace("r/checkpoint", ["code", "inputs"], said.append) as work:
        assert (work.open() / "state").read_text() == "half"
        assert not said
    with store.workspace("r/checkpoint", ["other code", "inputs"], said.append) as other:
        assert not (other.open() / "state").exists()
        assert str(work.path) in said[-1]


def test_a_partitions_folder_lies_where_its_datasets_do(store):
    with store.workspace("g/checkpoint[r0.5]", ["code"], said.append) as work:
        folder = work.open()
    assert folder.parent == store.home / "work" / "g" / "checkpoint" / "r0.5"
    assert store.directory("g/checkpoint[r0.5]") == store.home / "datasets" / "g" / "checkpoint" / "r0.5"
    assert list(store.home.glob(f"{folder.parent.relative_to(store.home)}/*")) == [folder]


def test_a_folder_is_one_owners(store):
    with (
        store.workspace("r/checkpoint", ["x"], said.append) as first,
        store.workspace("r/checkpoint", ["x"], said.append) as second,
    ):
        first.open()
        with pytest.raises(DatasetError, match="Another run is making the same dataset"):
            second.open()
        first.close()
        second.open()


def work_in(folder, seconds, ready) -> None:
    with sharing(folder):
        ready.set()
        time.sleep(seconds)


def test_processes_of_an_owner_that_was_killed_are_waited_for(store, monkeypatch):
    path = store.home / "work"
    path.mkdir()
    ready = SPAWN.Event()
    process = SPAWN.Process(target=work_in, args=(path, 600, ready))
    process.start()
    assert ready.wait(60)
    monkeypatch.setattr(workspace, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(DatasetError, match="still work on the same dataset"):
        Workspace(path, "r/checkpoint", said.append).open()
    process.kill()
    process.join()
    Workspace(path, "r/checkpoint", said.append).open()


def test_what_is_committed_leaves_its_name_until_the_next_begins(store):
    with store.workspace("r/checkpoint", ["x"], said.append) as work:
        (work.open() / "step-1").mkdir()
        work.discard("datasets/r/checkpoint/1")
        assert [p.name for p in work.path.iterdir()] == [workspace.COMMITTED]
    with store.workspace("r/checkpoint", ["x"], said.append) as work:
        assert work.committed() == "datasets/r/checkpoint/1"
        assert work.others() == []
        work.open()
        assert work.committed() is None


def test_a_folder_that_was_never_opened_is_never_made(store):
    with store.workspace("r/checkpoint", ["x"], said.append) as work:
        assert work.committed() is None
        work.discard("datasets/r/checkpoint/1")
    assert not (store.home / "work").exists()
