"""What is tried again when it fails, and what is not: one place for every asset.

A step is tried again only for what may pass by itself: storage, a database or a server that does not answer,
a worker that is lost. Bad data, numbers that are none, memory that does not suffice and defects fail at once;
so no asset has a `RetryPolicy`, which would try those again too. A run whose own process is lost is Dagster's
to start again (`run_retries` in infra/dagster.yaml).
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster import Failure, RetryRequested

from ehr_assets.errors import EhrError, TransientError

MOST_RETRIES = 2
FIRST_WAIT_SECONDS = 10
"""Before the first retry; three times as long before each that follows."""

PASSING_ERRNOS = {
    getattr(errno, name)
    for name in (
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"),
        *("ENETRESET", "ENETDOWN", "EHOSTDOWN", "EPIPE", "EIO", "ESTALE", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}
# By name: to import these libraries in order to know their errors costs seconds.
PASSING_NAMES = {
    "botocore.exceptions": {"HTTPClientError", "IncompleteReadError", "ResponseStreamingError"},
    "ray.exceptions": {
        *("ActorDiedError", "ActorUnavailableError", "LocalRayletDiedError", "NodeDiedError"),
        *("ObjectLostError", "WorkerCrashedError"),
    },
    "psycopg2": {"OperationalError", "InterfaceError"},
    "urllib3.exceptions": {"ProtocolError", "MaxRetryError", "TimeoutError"},
}
PASSING_STATUS = {429, 500, 502, 503, 504}


def may_pass(error: BaseException) -> bool:
    """Whether an error may be gone on another try.

    Of an `EhrError` its kind says so, whatever it arose from. Of others what they say, and what they arose
    from.
    """
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, EhrError):
            return isinstance(at, TransientError)
        if isinstance(at, MemoryError):
            return False
        if _passes(at):
            return True
        at = at.__cause__ or at.__context__
    return False


def _passes(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in PASSING_ERRNOS:
        return True
    response = getattr(error, "response", None)  # botocore's ClientError
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode") in PASSING_STATUS
    kinds = ((kind.__module__, kind.__name__) for kind in type(error).__mro__)
    return any(name in PASSING_NAMES.get(module, ()) for module, name in kinds)


@contextmanager
def failing_clearly(context: Any) -> Iterator[None]:
    """Around an asset's work: every error that a user can act on becomes a `Failure` whose text stands alone.

    What may pass asks Dagster for another try instead, as long as there is one left.

    Args:
        context: of the step, whose `retry_number` counts.
    """
    try:
        yield
    except (Failure, RetryRequested):
        raise
    except Exception as e:
        tried = context.retry_number
        if may_pass(e) and tried < MOST_RETRIES:
            wait = FIRST_WAIT_SECONDS * 3**tried
            context.log.warning(f"{_shown(e)} It is tried again in {wait} s.")
            raise RetryRequested(MOST_RETRIES, wait) from e
        if isinstance(e, EhrError):
            raise Failure(description=str(e), allow_retries=False) from e
        raise


def _shown(error: Exception) -> str:
    """Other libraries' errors by their kind alone: they quote addresses, and what they read."""
    return error.what if isinstance(error, EhrError) else f"{type(error).__name__}."
