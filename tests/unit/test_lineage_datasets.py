"""Datasets on disk: what is committed is found again unchanged; what is altered is refused."""

import errno
import os
import subprocess
import sys
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_assets.errors import DatasetError
from ehr_assets.lineage import datasets
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import MANIFEST_NAME, InputEntry, now


@pytest.fixture
def store(tmp_path):
    return DatasetStore(tmp_path / "home")


def commit(store, content="hello", *, clock="1", rows=3, **kwargs):
    with store.staging() as staged:
        (staged / "sub").mkdir()
        (staged / "sub" / "a.txt").write_text(content)
        (staged / "timing.jsonl").write_text(clock)
        pq.write_table(pa.table({"x": list(range(rows))}), staged / "t.parquet")
        return store.commit(
            staged,
            asset="c/thing",
            code_version="v.1",
            started_at=now(),
            volatile=("timing.jsonl",),
            **kwargs,
        )


@pytest.mark.parametrize("thorough", [True, False])
def test_a_dataset_that_cannot_be_used_says_why(store, thorough):
    made = commit(store)

    def problem():
        return store.problem("c/thing", store.relative(made), made.data_version, thorough=thorough)

    assert problem() is None
    (made.path / "sub" / "a.txt").write_text("hellO")
    assert bool(problem()) is thorough, "the same size: only the content tells"
    (made.path / "sub" / "a.txt").write_text("hello!")
    assert "altered" in problem()
    (made.path / MANIFEST_NAME).write_text("{")
    assert "manifest cannot be read" in problem()
    (made.path / MANIFEST_NAME).unlink()
    assert problem()


def test_a_file_that_the_manifest_does_not_list_is_refused(store):
    made = commit(store)
    (made.path / "sub" / "more.txt").write_text("planted")
    with pytest.raises(DatasetError, match="does not list"):
        store.open("c/thing", store.relative(made))


def test_a_committed_dataset_opens_with_its_manifest(store):
    made = commit(store, inputs=[InputEntry(asset="c/up", data_version="9", dataset="d")], stats={"n": 1})
    found = store.open("c/thing", store.relative(made))
    assert found.manifest == made.manifest
    assert found.manifest.row_counts == {"t.parquet": 3}
    assert found.manifest.schemas["t.parquet"] == {"x": "int64"}
    assert (found.path / "sub" / "a.txt").read_text() == "hello"


def test_equal_content_gives_equal_versions_whatever_the_clock_said(store):
    assert commit(store, clock="1").data_version == commit(store, clock="2").data_version
    assert commit(store).data_version != commit(store, "other").data_version
    assert commit(store).data_version != commit(store, rows=4).data_version


def test_versions_lie_side_by_side(store):
    first, second = commit(store, "one"), commit(store, "two")
    assert first.path != second.path
    assert store.open("c/thing", store.relative(first)).data_version == first.data_version


@pytest.mark.parametrize("name", ["sub/a.txt", "t.parquet", "timing.jsonl"])
def test_one_altered_byte_is_found(store, name):
    made = commit(store)
    path = made.path / name
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="altered") as e:
        store.open("c/thing", store.relative(made))
    assert name in str(e.value)
    assert "key:c/thing" in str(e.value)


def test_an_alteration_after_a_first_opening_is_found(store):
    made = commit(store)
    store.open("c/thing", store.relative(made))
    (made.path / "sub" / "a.txt").write_text("jello")
    with pytest.raises(DatasetError, match="altered"):
        store.open("c/thing", store.relative(made))


def test_a_missing_file_is_found(store):
    made = commit(store)
    (made.path / "sub" / "a.txt").unlink()
    with pytest.raises(DatasetError, match="is missing"):
        store.open("c/thing", store.relative(made))


def test_a_file_swapped_together_with_its_hash_is_found(store):
    made = commit(store)
    other = commit(store, "other")
    manifest = (other.path / MANIFEST_NAME).read_text().replace(other.data_version, made.data_version)
    (other.path / MANIFEST_NAME).write_text(manifest)
    with pytest.raises(DatasetError, match="do not give its data version"):
        store.open("c/thing", store.relative(other))


def test_no_manifest_means_no_dataset(store):
    made = commit(store)
    (made.path / MANIFEST_NAME).unlink()
    with pytest.raises(DatasetError, match="never committed"):
        store.open("c/thing", store.relative(made))


def test_a_torn_manifest_is_refused(store):
    made = commit(store)
    text = (made.path / MANIFEST_NAME).read_text()
    (made.path / MANIFEST_NAME).write_text(text[: len(text) // 2])
    with pytest.raises(DatasetError, match="manifest cannot be read"):
        store.open("c/thing", store.relative(made))


def test_another_assets_or_versions_dataset_is_refused(store):
    made = commit(store)
    with pytest.raises(DatasetError, match="another asset"):
        store.open("c/else", store.relative(made))
    with pytest.raises(DatasetError, match="another asset or version"):
        store.open("c/thing", store.relative(made), data_version="0" * 64)


def test_a_failure_while_writing_leaves_nothing(store):
    def write_half():
        with store.staging() as staged:
            (staged / "half.txt").write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_half()
    assert not list((store.home / "staging").iterdir())
    assert not (store.home / "datasets").exists()


def test_a_full_disk_says_so_and_leaves_nothing(store):
    def fill_up():
        with store.staging() as staged:
            (staged / "half.txt").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DatasetError, match="disk is full"):
        fill_up()
    assert not list((store.home / "staging").iterdir())


def test_an_empty_dataset_is_not_committed(store):
    def commit_nothing():
        with store.staging() as staged:
            store.commit(staged, asset="c/thing", code_version="v", started_at=now())

    with pytest.raises(DatasetError, match="no files"):
        commit_nothing()


def test_datasets_are_private_to_their_owner(store):
    assert commit(store).path.stat().st_mode & 0o077 == 0


def test_the_previous_version_is_the_newest_older_one_with_another_content(store):
    first, same, second = commit(store, "one"), commit(store, "one"), commit(store, "two")
    assert store.previous(first) is None
    assert store.previous(same) is None
    assert store.previous(second) == same.path
    (same.path / "sub" / "a.txt").unlink()
    assert store.previous(second) == first.path
    (first.path / MANIFEST_NAME).unlink()
    (first.path.parent / "0 a note.txt").write_text("stray")
    assert store.previous(second) is None


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400), timedelta()])
def test_versions_are_in_the_order_of_commits_whatever_the_clock_does(store, monkeypatch, jump):
    start = now()
    clock = iter([start, start + jump, start + jump, start])
    monkeypatch.setattr(datasets, "now", lambda: next(clock))
    made = [commit(store, content) for content in ("one", "two", "two", "three")]
    names = [dataset.path.name for dataset in made]
    assert names == sorted(set(names))
    assert store.previous(made[1]) == made[0].path
    assert store.previous(made[3]) == made[2].path
    assert made[1].manifest.committed_at == start + jump, "what the clock said is told as it was"


def test_two_hosts_that_commit_the_same_at_the_same_moment_both_keep_theirs(store, monkeypatch):
    """Without a lock in common: the other one commits between the look and the rename."""
    at = now()
    monkeypatch.setattr(datasets, "now", lambda: at)
    first = commit(store)
    real, looks = store.versions, iter([[]])
    monkeypatch.setattr(store, "versions", lambda asset: next(looks, None) or real(asset))
    second = commit(store)
    assert first.path != second.path
    for made in (first, second):
        assert store.open("c/thing", store.relative(made)).data_version == first.data_version


def test_a_staging_directory_of_a_process_that_was_killed_goes_with_the_next(store):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ehr_assets.lineage.datasets import DatasetStore\n"
        "with DatasetStore(Path(sys.argv[1])).staging() as staged:\n"
        "    (staged / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store.home)], check=False)
    (left,) = (p for p in (store.home / "staging").iterdir() if p.is_dir())
    assert (left / "half").exists()
    with store.staging() as ours, store.staging() as inner:
        found = {p for p in (store.home / "staging").iterdir() if p.is_dir()}
        assert found == {ours, inner}, "the dead one's is gone, those of the living are not"
    assert not list((store.home / "staging").iterdir())


def test_one_process_at_a_time_makes_a_dataset(store):
    with store.making("c/thing", "run-1"):
        with store.making("c/other", "run-2"), store.making("c/thing[part]", "run-2"):
            pass
        with pytest.raises(DatasetError, match="Another run") as e, store.making("c/thing", "run-2"):
            pass
        assert "c/thing: run run-1 in process" in str(e.value)
    with store.making("c/thing", "run-2"):
        pass
