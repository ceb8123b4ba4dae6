"""A suite of planted leaks: each is caught, and by which guard; the clean chain passes every guard.

Each leak is a few lines on a copy of a clean chain (`planted_support.py`). Where the cohort's own codes are
of no use (admissions, scores), a record of a few events takes its place.
"""

import planted_in_features
import planted_in_records
import planted_in_splits
import pytest
from planted_guards import GUARDS
from planted_support import LEAKS, clean_chain

TABLES = (planted_in_records, planted_in_splits, planted_in_features)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return clean_chain(tmp_path_factory.mktemp("chain"))


@pytest.mark.parametrize("guard", GUARDS)
def test_the_clean_chain_passes(chain, guard):
    assert GUARDS[guard](chain)


@pytest.mark.parametrize("planted", LEAKS, ids=lambda leak: f"{leak.name}-{leak.guard}")
def test_a_planted_leak_is_caught(chain, planted):
    assert not GUARDS[planted.guard](planted.plant(chain))


def test_the_suite_is_large_and_uses_every_guard():
    assert {leak.plant.__module__ for leak in LEAKS} == {table.__name__ for table in TABLES}
    assert len({leak.name for leak in LEAKS}) == len(LEAKS) >= 34
    assert {leak.guard for leak in LEAKS} == set(GUARDS)
