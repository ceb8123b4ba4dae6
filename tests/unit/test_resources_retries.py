"""What is tried again, and what is not."""

import errno

import pytest
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetExecutionContext,
    DagsterEventType,
    asset,
    asset_check,
    materialize,
)

from ehr_assets.errors import DatasetError, TrackingError, TrainingError, UnreachableTableError
from resources import retries
from resources.confidential import keep_confidential
from resources.retries import MOST_RETRIES, may_pass
from resources.storage import Datasets


def like(module: str, name: str, **attributes) -> Exception:
    """An error of a library that is not imported here."""
    return type(name, (Exception,), {"__module__": module, **attributes})()


def arisen(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


PASSING = {
    "registry": TrackingError("no answer"),
    "object store": UnreachableTableError("no answer"),
    "connection": ConnectionResetError(),
    "time-out": TimeoutError(),
    "stale file": OSError(errno.ESTALE, "stale"),
    "database": arisen(RuntimeError("sql"), like("psycopg2", "OperationalError")),
    "S3 is busy": like("botocore.exceptions", "C", response={"ResponseMetadata": {"HTTPStatusCode": 503}}),
    "a lost worker": like("ray.exceptions", "NodeDiedError"),
}
LASTING = {
    "bad data": DatasetError("altered"),
    "a person can mend it": arisen(DatasetError("altered"), ConnectionResetError()),
    "not a number": TrainingError("The loss is no number."),
    "memory": MemoryError(),
    "memory of a worker": like("ray.exceptions", "OutOfMemoryError"),
    "memory, over a connection": arisen(MemoryError(), ConnectionResetError()),
    "full disk": OSError(errno.ENOSPC, "full"),
    "forbidden": like("botocore.exceptions", "C", response={"ResponseMetadata": {"HTTPStatusCode": 403}}),
    "defect": KeyError("x"),
}


@pytest.mark.parametrize("what", PASSING)
def test_what_may_pass(what):
    assert may_pass(PASSING[what])


@pytest.mark.parametrize("what", LASTING)
def test_what_will_not(what):
    assert not may_pass(LASTING[what])


@pytest.mark.parametrize(
    ("error", "times", "tries", "done"),
    [
        (TrackingError("no answer"), 1, 2, True),
        (ConnectionResetError("secret"), 99, MOST_RETRIES + 1, False),
        (DatasetError("altered"), 99, 1, False),
        (MemoryError(), 99, 1, False),
        (FloatingPointError(), 99, 1, False),
    ],
)
def test_an_asset_is_tried_again_for_that_alone(tmp_path, monkeypatch, error, times, tries, done):
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0)
    tried = []

    @asset(code_version="1")
    def made(context: AssetExecutionContext, datasets: Datasets):
        def build(step):
            tried.append(context.retry_number)
            if len(tried) <= times:
                raise error
            (step.out / "file").write_text("x")
            return {}

        return datasets.materialize(context, build)

    result = materialize(
        [made], resources={"datasets": Datasets(home=str(tmp_path), gates={})}, raise_on_error=False
    )
    assert result.success is done
    assert tried == list(range(tries))
    asked = [e for e in result.all_events if e.event_type is DagsterEventType.STEP_UP_FOR_RETRY]
    assert len(asked) == tries - 1
    assert not list((tmp_path / "staging").iterdir())


@pytest.mark.parametrize(
    ("error", "tries", "done"), [(TrackingError("no answer"), 2, True), (DatasetError("altered"), 1, False)]
)
def test_a_check_is_tried_again_for_that_alone(monkeypatch, error, tries, done):
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0)
    tried = []

    @asset
    def made():
        pass

    @asset_check(asset=made, blocking=True)
    def whole(context: AssetCheckExecutionContext) -> AssetCheckResult:
        tried.append(context.retry_number)
        if len(tried) == 1:
            raise error
        return AssetCheckResult(passed=True)

    keep_confidential([made, whole])
    result = materialize([made, whole], raise_on_error=False)
    assert tried == list(range(tries))
    assert result.success is done
    if not done:
        failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data
        assert failure.user_failure_data
        assert failure.user_failure_data.description == "altered"
