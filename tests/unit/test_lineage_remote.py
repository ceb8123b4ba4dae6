"""Datasets on S3: what one machine commits another finds; what is half there, altered or away is told."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ehr_assets.errors import DatasetError, SpecError, StorageError, StorageUnavailableError
from ehr_assets.lineage.closure import closure_of, located
from ehr_assets.lineage.manifest import MANIFEST_NAME, InputEntry, now
from ehr_assets.lineage.verifying import differences
from ehr_assets.settings import Settings
from jobs.cli import doctor
from resources.object_store import open_store
from tests.servers import SECRET

HOME = "s3://team/ehr/one"


@pytest.fixture
def machines(s3, tmp_path):
    """Stores on two machines: one address, a cache each."""
    return open_store(tmp_path / "a", HOME), open_store(tmp_path / "b", HOME)


def commit(store, content="hello", asset="c/thing", files=3):
    with store.staging() as staged:
        (staged / "sub").mkdir()
        for i in range(files):
            (staged / "sub" / f"{i}.txt").write_text(f"{content} {i}")
        return store.commit(staged, asset=asset, code_version="v.1", started_at=now())


def objects(s3):
    found = s3.client().list_objects_v2(Bucket="team", Prefix="ehr/one/").get("Contents", [])
    return {item["Key"].removeprefix("ehr/one/"): item["Size"] for item in found}


def cached(store):
    """The files of datasets in the cache, and whatever is being written."""
    return sorted(p.relative_to(store.home).as_posix() for p in store.home.rglob("*") if p.is_file())


def test_another_machine_finds_what_was_committed(s3, machines):
    here, there = machines
    made = commit(here)
    relative = here.relative(made)
    puts = [path for method, path in s3.requests if method == "PUT"]
    assert puts[-1].endswith(MANIFEST_NAME), "until the manifest is there, there is no dataset"
    found = there.open("c/thing", relative, data_version=made.data_version)
    assert found.manifest == made.manifest
    assert (found.path / "sub" / "1.txt").read_text() == "hello 1"
    assert found.path.is_relative_to(there.home)
    before = len(s3.requests)
    there.open("c/thing", relative, data_version=made.data_version)
    assert len(s3.requests) == before, "what the cache holds is not fetched again"


def test_an_empty_cache_knows_the_state_without_fetching_the_files(s3, machines):
    here, there = machines
    made = commit(here)
    relative = here.relative(made)
    assert there.problem("c/thing", relative, made.data_version, thorough=False) is None
    assert [Path(p).name for p in cached(there)] == [MANIFEST_NAME]
    assert there.problem("c/thing", relative, made.data_version, thorough=True) is None
    assert len(cached(there)) == 4


def test_an_object_that_goes_in_parts_arrives_whole(machines):
    here, there = machines
    content = bytes(range(256)) * 40_000  # more than boto3 sends at once
    with here.staging() as staged:
        (staged / "large").write_bytes(content)
        made = here.commit(staged, asset="c/large", code_version="v.1", started_at=now())
    assert (there.open("c/large", here.relative(made)).path / "large").read_bytes() == content


def test_the_doctor_says_whether_the_store_answers(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("EHR_CACHE", str(tmp_path))
    for home, ok, said in (
        (HOME, True, "no datasets yet"),
        ("s3://nobodys-bucket/x", False, "no such bucket"),
    ):
        monkeypatch.setenv("EHR_HOME", home)
        (finding,) = (f for f in doctor._storage() if f[1] == "EHR_HOME")
        assert finding[0] is ok
        assert said in finding[2]


def test_the_version_before_is_found_from_an_empty_cache(machines):
    here, there = machines
    older, newer = commit(here, "older"), commit(here, "newer")
    found = there.previous(there.open("c/thing", here.relative(newer)))
    assert found is not None
    assert found.name == older.path.name
    assert (found / "sub" / "0.txt").read_text() == "older 0"


def test_an_object_altered_in_the_bucket_is_refused_and_not_kept(s3, machines):
    here, there = machines
    relative = here.relative(commit(here))
    s3.client().put_object(Bucket="team", Key=f"ehr/one/{relative}/sub/1.txt", Body=b"hellO 1")
    assert there.problem("c/thing", relative, None, thorough=False) is None, "the same size"
    with pytest.raises(DatasetError, match="was altered") as e:
        there.open("c/thing", relative)
    assert f"{HOME}/{relative}/sub/1.txt" in str(e.value)
    assert "key:c/thing" in str(e.value)
    assert not any(p.endswith("1.txt") for p in cached(there))
    s3.client().put_object(Bucket="team", Key=f"ehr/one/{relative}/sub/1.txt", Body=b"longer than it was")
    assert "altered" in str(here.problem("c/thing", relative, None, thorough=False)), (
        "though the cache has it"
    )


def test_a_missing_object_and_a_missing_manifest_are_told(s3, machines):
    here, there = machines
    relative = here.relative(commit(here))
    s3.client().delete_object(Bucket="team", Key=f"ehr/one/{relative}/sub/1.txt")
    with pytest.raises(DatasetError, match="is missing"):
        there.open("c/thing", relative)
    s3.client().delete_object(Bucket="team", Key=f"ehr/one/{relative}/{MANIFEST_NAME}")
    assert "is gone" in str(here.problem("c/thing", relative, None, thorough=False)), (
        "though the cache has it"
    )
    third = open_store(there.home.with_name("c"), HOME)
    with pytest.raises(DatasetError, match="never committed"):
        third.open("c/thing", relative)


def test_a_damaged_cache_is_filled_anew(machines):
    here, _ = machines
    made = commit(here)
    (made.path / "sub" / "1.txt").write_text("jello 1")
    (made.path / "sub" / "2.txt").unlink()
    (made.path / MANIFEST_NAME).write_text("{")
    found = here.open("c/thing", here.relative(made))
    assert [(found.path / "sub" / f"{i}.txt").read_text() for i in range(3)] == [
        f"hello {i}" for i in range(3)
    ]


def test_two_machines_that_make_the_same_do_not_disturb_each_other(machines):
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda store: [commit(store, f"v{i}") for i in range(5)], machines))
    assert [m.data_version for m in made[0]] == [m.data_version for m in made[1]]
    for store in machines:
        for dataset in (*made[0], *made[1]):
            relative = dataset.path.relative_to(dataset.path.parents[3]).as_posix()
            assert store.open("c/thing", relative, data_version=dataset.data_version)


KILLED = """
import sys
from pathlib import Path
from ehr_assets.lineage.manifest import now
from resources.object_store import open_store
store = open_store(Path(sys.argv[1]), sys.argv[2])
with store.staging() as staged:
    (staged / "a.txt").write_text("a")
    store.commit(staged, asset="c/thing", code_version="v.1", started_at=now())
"""


def test_an_upload_that_was_killed_before_its_manifest_is_no_dataset(s3, machines, tmp_path):
    here, _ = machines
    started = []

    def kill_at_the_manifest(method, path):
        if method == "PUT" and path.endswith(MANIFEST_NAME):
            os.kill(started[0].pid, signal.SIGKILL)
            return "503"
        return ""

    s3.fault = kill_at_the_manifest
    started.append(subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "k"), HOME]))
    assert started[0].wait(timeout=120) == -signal.SIGKILL
    s3.fault = lambda method, path: ""
    (left,) = objects(s3)
    assert left.endswith("a.txt")
    relative = left.removesuffix("/a.txt")
    assert "is gone" in str(here.problem("c/thing", relative, None, thorough=False))
    assert here.previous(commit(here)) is None
    here.remove(relative)
    assert not any(name.startswith(relative) for name in objects(s3))


def test_a_store_that_is_busy_is_asked_again(s3, machines):
    here, there = machines
    seen = set()

    def first_time(method, path):
        known = (method, path) in seen
        seen.add((method, path))
        return "" if known else "503"

    s3.fault = first_time
    made = commit(here)
    assert there.open("c/thing", here.relative(made)).data_version == made.data_version


def test_a_store_that_stays_away_leaves_nothing_behind(s3, machines):
    here, there = machines
    made = commit(here)
    before = objects(s3)
    s3.fault = lambda method, path: "503" if path.endswith(MANIFEST_NAME) else ""
    with pytest.raises(StorageUnavailableError, match="does not answer") as e:
        commit(here, "more")
    assert SECRET not in str(e.value)
    assert len(list(here.directory("c/thing").iterdir())) == 1
    s3.fault = lambda method, path: "503"
    relative = here.relative(made)
    for thorough in (True, False):
        # Were it told as a missing dataset, everything would be made anew.
        with pytest.raises(StorageUnavailableError):
            there.problem("c/thing", relative, None, thorough=thorough)
    s3.fault = lambda method, path: ""
    assert before.items() <= objects(s3).items()
    assert here.problem("c/thing", relative, None, thorough=True) is None


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_transfer_that_is_cut_off_is_begun_again(s3, machines, method):
    here, there = machines
    cuts = iter(["cut"])
    s3.fault = lambda m, path: next(cuts, "") if m == method and path.endswith("1.txt") else ""
    made = commit(here)
    there.open("c/thing", here.relative(made))
    assert next(cuts, None) is None, "the fault happened"


def test_nothing_that_was_cut_off_is_trusted(s3, machines):
    here, there = machines
    relative = here.relative(commit(here))
    s3.fault = lambda method, path: "cut" if path.endswith("1.txt") else ""
    with pytest.raises(StorageUnavailableError):
        there.open("c/thing", relative)
    assert not any("1.txt" in p or "staging" in p for p in cached(there))
    with pytest.raises(StorageUnavailableError):
        commit(here, "more")
    s3.fault = lambda method, path: ""
    assert there.open("c/thing", relative)
    assert len(here.versions("c/thing")) == 2, "what was uploaded lies there until it is collected"
    assert there.previous(commit(there, "third")).name == Path(relative).name, "and is passed over"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("403 InvalidAccessKeyId", "does not know the access key"),
        ("403 SignatureDoesNotMatch", "do not belong together"),
        ("403 AccessDenied", "denies access"),
        ("400 ExpiredToken", "have expired"),
    ],
)
def test_a_refusal_is_told_in_words_and_at_once(s3, machines, fault, said):
    s3.fault = lambda method, path: fault
    with pytest.raises(StorageError, match=said) as e:
        machines[0].open("c/thing", "datasets/c/thing/x")
    assert not isinstance(e.value, StorageUnavailableError), "no retry will mend it"
    assert SECRET not in str(e.value)
    assert len(s3.requests) == 1


def test_a_missing_bucket_is_told(s3, tmp_path):
    store = open_store(tmp_path, "s3://nobodys-bucket/x")
    for act in (lambda: commit(store), lambda: store.problem("c/t", "datasets/c/t/x", None, thorough=False)):
        with pytest.raises(StorageError, match="no such bucket") as e:
            act()
        assert "s3://nobodys-bucket" in str(e.value)


def test_a_store_that_is_not_there_is_told(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageUnavailableError, match="does not answer"):
        open_store(tmp_path, HOME).open("c/thing", "datasets/c/thing/x")


def test_each_address_has_a_cache_of_its_own(tmp_path):
    def settings(home):
        return Settings.from_env({"EHR_HOME": home, "EHR_CACHE": str(tmp_path)})

    one, same, two = settings("s3://team/one"), settings("s3://team/one/"), settings("s3://team/two")
    assert one.home == same.home
    assert one.home != two.home
    assert one.home.parent == tmp_path
    assert (one.remote, one.where) == ("s3://team/one", "s3://team/one")
    local = Settings.from_env({"EHR_HOME": str(tmp_path)})
    assert (local.home, local.remote, local.where) == (tmp_path, "", str(tmp_path))


@pytest.mark.parametrize(
    "address", ["gs://bucket/x", "s3://", "s3://hidden:hidden@bucket/x", "s3://bucket//x"]
)
def test_what_is_no_address_is_refused_without_its_secret(address):
    with pytest.raises(SpecError, match=r"neither|secret does not belong") as e:
        Settings.from_env({"EHR_HOME": address})
    assert "hidden" not in str(e.value)


def test_what_a_dataset_was_made_from_is_found_from_an_empty_cache(s3, machines):
    here, there = machines
    raw = commit(here, "raw", "c/raw")
    entry = InputEntry(asset="c/raw", data_version=raw.data_version, dataset=here.relative(raw))
    with here.staging() as staged:
        (staged / "a.txt").write_text("a")
        model = here.commit(
            staged, asset="r/checkpoint", code_version="v.1", started_at=now(), inputs=[entry]
        )
    place = located(there, "r/checkpoint")
    assert place == here.relative(model)
    closure = closure_of(there, place)
    assert [node.asset for node in closure.nodes] == ["c/raw", "r/checkpoint"]
    assert differences(there, closure, {}) == []
    assert not (there.home / here.relative(raw) / "sub").exists(), "verifying fills no cache"


def test_many_files_arrive_while_others_begin_and_sweep(machines):
    here, there = machines
    made = commit(here, files=40)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: there.open("c/thing", here.relative(made)), range(4)))
    assert all(len(list((f.path / "sub").iterdir())) == 40 for f in found)
