"""The inventory of raw files: complete, and not to be fooled by one byte."""

import hashlib
from copy import deepcopy

import pytest
from cohorts_support import LABS, PEOPLE, SPEC, tiny, write_tables

from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.inventory import inventory, raw_root, verify_inventory
from ehr_assets.cohorts.origin import source_changes, tables_root, write_inventory
from ehr_assets.cohorts.roots import RawRoot, unreachable
from ehr_assets.errors import DatasetError, RawTableError


@pytest.fixture
def root(tmp_path):
    return write_tables(tmp_path, PEOPLE + "1,F,1950,\n", LABS)


def test_it_lists_every_file_used_dimensions_included(root):
    (root / "items.csv").write_text("item,name\n")
    (root / "unused.csv").write_text("x\n")
    found = inventory(tiny(), root)
    assert [(e["table"], e["file"]) for e in found] == [
        ("items", "items.csv"),
        ("labs", "lab/labs.csv"),
        ("people", "people.csv"),
    ]
    data = (root / "people.csv").read_bytes()
    assert found[2]["bytes"] == len(data)
    assert found[2]["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_missing_table_is_an_error_and_an_optional_one_is_not(root):
    assert len(inventory(tiny(), root)) == 2  # the optional join is absent
    (root / "lab" / "labs.csv").unlink()
    with pytest.raises(RawTableError, match="lab/labs"):
        inventory(tiny(), root)


def with_join(**table):
    """`labs` with a join that is not optional; `table`: more of its keys."""
    spec = deepcopy(SPEC)
    del spec["tables"][1]["joins"][0]["optional"]
    spec["tables"][1] |= table
    return tiny(**spec)


def test_the_joins_of_a_table_are_needed_where_the_table_is_there(root):
    """As extraction needs them; the joins of a table that is not there are not."""
    with pytest.raises(RawTableError, match="items"):
        inventory(with_join(optional=True), root)
    (root / "lab" / "labs.csv").unlink()
    (root / "items.csv").write_text("item,name\n")
    assert [e["file"] for e in inventory(with_join(optional=True), root)] == ["people.csv"]


def test_only_what_will_be_read_is_hashed_again(root, monkeypatch):
    recorded, hashed, sha256 = inventory(tiny(), root), [], RawFile.sha256
    monkeypatch.setattr(RawFile, "sha256", lambda file: hashed.append(file.path) or sha256(file))
    verify_inventory(tiny(), root, recorded, only=["people"])
    assert hashed == ["people.csv"]
    flip(root)
    verify_inventory(tiny(), root, recorded, only=["people"])
    with pytest.raises(DatasetError, match="was altered"):
        verify_inventory(tiny(), root, recorded, only=["lab/labs"])
    (root / "lab" / "labs.csv").write_text("")
    with pytest.raises(DatasetError, match="was altered"):
        verify_inventory(tiny(), root, recorded, only=["people"])


def test_a_store_that_cannot_be_reached_has_lost_nothing(root, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("EHR_TINY_ROOT", str(root))
    dataset = tmp_path_factory.mktemp("raw_tables")
    write_inventory(tiny(), dataset)
    assert source_changes(tiny(), dataset) is None

    def gone(self, path):
        raise unreachable(path, OSError("AWS Error NETWORK_CONNECTION"))

    with monkeypatch.context() as patch:
        patch.setattr(RawRoot, "size", gone)
        assert source_changes(tiny(), dataset) is None
        with pytest.raises(RawTableError, match="does not answer"):
            tables_root(tiny(), dataset)
    (root / "people.csv").unlink()
    assert "is missing" in source_changes(tiny(), dataset)


def flip(root):
    path = root / "lab" / "labs.csv"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "what", "file"),
    [
        (flip, "was altered", "labs.csv"),
        (lambda root: (root / "people.csv").unlink(), "is missing", "people"),
        (lambda root: (root / "items.csv").write_text("item,name\n"), "was added", "items.csv"),
    ],
)
def test_a_change_since_is_told_with_what_to_do(root, change, what, file):
    recorded = inventory(tiny(), root)
    verify_inventory(tiny(), root, recorded)
    change(root)
    with pytest.raises(DatasetError, match=what) as e:
        verify_inventory(tiny(), root, recorded)
    assert file in str(e.value)
    assert "re-materialize tiny/raw_tables" in str(e.value)


@pytest.mark.parametrize("env", [{}, {"EHR_TINY_ROOT": ""}, {"EHR_TINY_ROOT": "/nowhere/at/all"}])
def test_the_root_must_be_set_and_be_there(env):
    with pytest.raises(RawTableError, match="EHR_TINY_ROOT"):
        raw_root(tiny(), env)


def test_the_root_is_found(root):
    assert raw_root(tiny(), {"EHR_TINY_ROOT": str(root)}) == RawRoot.of(root.resolve())
