"""The inventory of raw files: complete, and not to be fooled by one byte."""

import hashlib

import pytest
from cohorts_support import LABS, PEOPLE, tiny, write_tables

from ehr_assets.cohorts.files import RawRoot
from ehr_assets.cohorts.inventory import inventory, raw_root, verify_inventory
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
