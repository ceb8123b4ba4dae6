"""The instance's own troubles, told so that a person can act on them."""

import errno
import hashlib
import sqlite3

import psycopg2
import pytest
from sqlalchemy.exc import OperationalError

from ehr_assets.errors import StorageUnavailableError
from ehr_assets.settings import Settings
from jobs import instance
from jobs.instance import INSTANCE_CONFIG, prepare_home, storage_problem


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


def test_a_database_that_does_not_answer_is_one_clear_error_without_its_password(tmp_path):
    password = "postgresql://dagster:secret@db/dagster"
    error = raised(OperationalError(password, {}, Exception()), psycopg2.OperationalError(password))
    problem = storage_problem(error, tmp_path)
    assert isinstance(problem, StorageUnavailableError)
    assert "secret" not in str(problem)


def test_other_errors_are_not_blamed_on_the_disk(tmp_path):
    assert storage_problem(raised(ValueError("x"), KeyError("y")), tmp_path) is None
    assert storage_problem(OSError(errno.EACCES, "Permission denied"), tmp_path) is None


def test_a_copy_of_the_configuration_follows_until_somebody_edits_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("EHR_HOME", "")
    settings, old = Settings(home=tmp_path), "telemetry:\n  enabled: false\n"
    monkeypatch.setattr(instance, "EARLIER_CONFIGS", {hashlib.sha256(old.encode()).hexdigest()})
    copy = settings.dagster_home / "dagster.yaml"
    for content, kept in ((old, False), (old + "# ours\n", True)):
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(content)
        prepare_home(settings)
        assert copy.read_text() == (content if kept else INSTANCE_CONFIG.read_text())
