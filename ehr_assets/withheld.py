"""Errors without the values that they quote: what libraries say of the data is not for logs and stores.

polars, Arrow, DuckDB and pydantic quote the value that they fell over. Dagster keeps an error's message, and
those of all that it arose from, for ever. So what leaves a stage is either an error written for people
(`errors.py`), or its kind and where in the code it arose.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator

from ehr_assets.errors import EhrError

SHOW_VARIABLE = "EHR_SHOW_MESSAGES"

_TELL_NO_VALUE = (EhrError, OSError, MemoryError, ImportError, sqlite3.OperationalError)
# By name: to import these libraries in order to know their errors costs seconds. They tell of connections.
_BY_NAME = re.compile(
    r"(torch\.OutOfMemoryError|concurrent\.futures\.process\.BrokenProcessPool|(botocore|urllib3)\..*|"
    r"psycopg2\.(Operational|Interface)Error|ray\.exceptions\.(?!.*TaskError).*)"
)
_OF_DAGSTER = {"Failure", "RetryRequested", "DagsterError"}
_FRAME = re.compile(r'  File ".*", line \d+, in [\w.<>]+')


class WithheldError(Exception):
    """In place of an error whose message may quote a value; it has that one's traceback."""


@contextlib.contextmanager
def values_withheld() -> Iterator[None]:
    """Errors of this block, and what they arose from, come out of it without messages that may quote a value.

    With EHR_SHOW_MESSAGES set to anything, which is for made-up data, they come out as they are.
    """
    try:
        yield
    except BaseException as e:
        if os.environ.get(SHOW_VARIABLE) or not _is_error(e):
            raise
        shown = without_values(e)
        if shown is e:
            raise
        raise shown.with_traceback(e.__traceback__) from shown.__cause__


def without_values(error: BaseException) -> BaseException:
    """The error itself, or one in its place; none of those it arose from quotes a value either."""
    return _clean(error, {})


def _clean(error: BaseException, done: dict[int, BaseException]) -> BaseException:
    if id(error) in done:  # errors may have arisen from one another in a circle
        return done[id(error)]
    shown = done[id(error)] = error if _tells_no_value(error) else _in_place_of(error)
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    shown.__cause__ = _clean(before, done) if before else None
    shown.__context__ = None
    vars(shown).pop("__notes__", None)  # said by whoever let it pass, of what it was working at
    return shown


def _is_error(e: BaseException) -> bool:
    """Also what Rust panics with; neither Ctrl-C nor Dagster's way to end a run."""
    return isinstance(e, Exception) or type(e).__module__ == "pyo3_runtime"


def _tells_no_value(e: BaseException) -> bool:
    kinds = type(e).__mro__
    return (
        isinstance(e, _TELL_NO_VALUE)
        or not _is_error(e)
        or bool(_BY_NAME.fullmatch(_name(type(e))))
        or any(k.__module__.startswith("dagster") and k.__name__ in _OF_DAGSTER for k in kinds)
    )


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _in_place_of(e: BaseException) -> WithheldError:
    if type(e).__name__ == "_RemoteTraceback":  # a worker's traceback as text, messages included
        frames = [line for line in str(e).splitlines() if _FRAME.fullmatch(line)]
        return WithheldError("In a worker process:\n" + "\n".join(frames))
    at = e.__traceback__
    while at and at.tb_next:
        at = at.tb_next
    where = f" in {at.tb_frame.f_code.co_filename}, line {at.tb_lineno}" if at else ""
    said = f"{_name(type(e))}{where}. Its message is withheld: it may quote a value of the data."
    return WithheldError(f"{said} With made-up data, set {SHOW_VARIABLE}=1 to see it.").with_traceback(
        e.__traceback__
    )
