"""A short soak: two retrainings on changed tables, two on the same; memory and stores by their ratios."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak.judge import troubles
from tests.soak.rounds import Round

PROJECT = Path(__file__).resolve().parents[2]
MB = 1 << 20


def test_memory_is_flat_and_stores_grow_evenly_over_four_rounds():
    command = [sys.executable, "-m", "tests.soak", "--rounds", "4"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def made_up(number):
    """A round of a soak in which all is well."""
    changed = number % 2 == 0
    sizes = {"dagster": number * MB, "datasets": (1 + number // 2) * MB, "staging": 0}
    return Round(number + 1, changed, 1.0, 500 * MB, 20, 8, sizes, 5 * (1 + number // 2))


GOOD = [made_up(number) for number in range(8)]


def test_even_growth_is_no_trouble():
    assert troubles(GOOD) == []


@pytest.mark.parametrize(
    ("which", "change", "said"),
    [
        (7, {"memory": 700 * MB}, "memory grew"),
        (7, {"files": 40}, "open files"),
        (7, {"threads": 30}, "threads"),
        (7, {"datasets": 99}, "unchanged rounds made"),
        (6, {"datasets": 99}, "rounds made"),
        (6, {"sizes": {**GOOD[6].sizes, "dagster": 20 * MB}}, "dagster grew"),
        (7, {"sizes": {**GOOD[7].sizes, "staging": 1}}, "staging holds"),
    ],
)
def test_each_kind_of_growth_is_found(which, change, said):
    done = list(GOOD)
    done[which] = replace(done[which], **change)
    assert any(said in line for line in troubles(done))


def test_a_slow_leak_is_found():
    done = [replace(one, memory=(500 + 8 * one.number) * MB) for one in GOOD]
    assert [line for line in troubles(done) if "per round" in line]
