"""The instance's own troubles, told so that a person can act on them."""

import errno
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from jobs.instance import storage_problem


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as e:
        return e


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        raised(OperationalError("PRAGMA", {}, Exception()), sqlite3.OperationalError("disk I/O error")),
        raised(RuntimeError("a step failed"), OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_is_one_clear_error(tmp_path, error):
    problem = storage_problem(error, tmp_path)
    assert problem is not None
    assert str(tmp_path) in problem.where
    assert "Free space" in problem.do


def test_other_errors_are_not_blamed_on_the_disk(tmp_path):
    assert storage_problem(raised(ValueError("x"), KeyError("y")), tmp_path) is None
    assert storage_problem(OSError(errno.EACCES, "Permission denied"), tmp_path) is None
