"""Following a run: the entries of its log as they come, wherever its steps are."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from dagster import DagsterInstance, EventLogEntry

POLL_SECONDS = 1.0


@contextlib.contextmanager
def follow(
    instance: DagsterInstance, run_id: str, on_event: Callable[[EventLogEntry], None], *, elsewhere: bool
) -> Iterator[None]:
    """While the block runs, `on_event` is called with each entry of the run's log.

    elsewhere: the steps store their events themselves, of which an instance does not tell its listeners; the
    log is then read, in a thread. When the block ends, all that is in it by then has been told.
    """
    if not elsewhere:
        instance.add_event_listener(run_id, on_event)
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_read, args=(instance, run_id, on_event, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _read(
    instance: DagsterInstance,
    run_id: str,
    on_event: Callable[[EventLogEntry], None],
    over: threading.Event,
) -> None:
    cursor, last = None, False
    while not last:
        last, more = over.wait(POLL_SECONDS), True
        while more:
            page = instance.get_records_for_run(run_id, cursor)
            for record in page.records:
                on_event(record.event_log_entry)
            cursor, more = page.cursor, page.has_more
