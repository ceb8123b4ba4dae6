"""Datasets on disk: what is committed is found again unchanged; what is altered is refused."""

import errno
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_assets.errors import DatasetError
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
