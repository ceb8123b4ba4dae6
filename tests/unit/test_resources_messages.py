"""Messages of a launched process: read when they are whole, in order, to the last."""

import json
import threading
import time
from typing import Any

from resources.messages import WholeMessagesReader, whole_lines


class Handler:
    """What Pipes hands a reader, as far as the reader uses it."""

    def __init__(self):
        self.taken, self.failed = [], []

    def handle_message(self, message):
        self.taken.append(message)

    def report_pipes_framework_exception(self, origin, info):
        self.failed.append(info[1])


def handler_of_pipes() -> Any:
    return Handler()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_message_that_is_being_written_is_waited_for(tmp_path):
    file, handler = tmp_path / "messages", handler_of_pipes()
    one, two = (json.dumps({"method": "log", "params": {"text": "é" * n}}) + "\n" for n in (3, 5000))
    with WholeMessagesReader(file).read_messages(handler), file.open("a", encoding="utf-8") as out:
        for part in (one + two[:530], two[530:700], two[700:]):
            out.write(part)
            out.flush()
            time.sleep(0.25)  # over two looks at the file: whoever takes half a line for a line has taken it
        until(lambda: len(handler.taken) == 2)
    assert handler.taken == [json.loads(one), json.loads(two)]
    assert not handler.failed


def test_what_was_written_last_is_read_after_the_end(tmp_path):
    file, handler = tmp_path / "messages", handler_of_pipes()
    with WholeMessagesReader(file).read_messages(handler):
        file.write_text('{"method": "closed"}\n{"method": "cu', encoding="utf-8")
    assert handler.taken == [{"method": "closed"}]


def test_what_is_no_message_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    file, handler = tmp_path / "messages", handler_of_pipes()
    with WholeMessagesReader(file).read_messages(handler):
        file.write_text("{not a message\n", encoding="utf-8")
    assert isinstance(handler.failed[0], json.JSONDecodeError)


def test_lines_come_while_the_file_grows(tmp_path):
    file = tmp_path / "grows"
    file.write_bytes(b"a\nb")
    ends = iter([False, False, True])

    def done():
        with file.open("ab") as out:
            out.write(b"c\n")
        return next(ends)

    assert list(whole_lines(file, done, poll_seconds=0)) == [b"a", b"bc", b"c", b"c"]
