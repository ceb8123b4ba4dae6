"""Failed runs are told, with names and kinds alone; who cannot be told breaks nothing."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from dagster import (
    AssetCheckResult,
    DagsterInstance,
    Failure,
    asset,
    asset_check,
    build_run_status_sensor_context,
    materialize,
)

from ehr_assets.errors import DatasetError
from ehr_assets.settings import Settings
from jobs.notify import failure_sensor, message
from resources.notifiers import LogNotifier, Notifier, WebhookNotifier, notifier

VALUE = "subject 4711 has 9.99"


@asset(key=["c", "broken"])
def broken():
    try:
        raise DatasetError(VALUE)
    except DatasetError as e:
        raise Failure(description=str(e), allow_retries=False) from e


@asset(key=["c", "judged"])
def judged():
    pass


@asset_check(asset=judged, blocking=True)
def good():
    return AssetCheckResult(passed=False, description=VALUE)


@pytest.fixture(scope="module")
def context():
    with DagsterInstance.ephemeral() as instance:
        result = materialize([broken, judged, good], instance=instance, raise_on_error=False)
        event = next(e for e in result.all_events if e.is_run_failure)
        status = build_run_status_sensor_context("failed_runs", event, instance, result.dagster_run)
        yield status.for_run_failure()


def test_a_message_has_names_and_kinds_and_no_value(context):
    told = message(context)
    assert told["run_id"] == context.dagster_run.run_id
    assert told["failed"]["c/broken"] == "DatasetError"
    assert told["checks"] == ["c/judged: good"]
    assert "c/broken (DatasetError)" in told["text"]
    assert "4711" not in json.dumps(told)
    assert "9.99" not in json.dumps(told)


def test_the_sensor_tells_whatever_notifier_it_is_given(context):
    told = []

    class Kept(Notifier):
        def tell(self, message, log):
            told.append(message)

    failure_sensor()(context, notifier=Kept())
    assert [m["run_id"] for m in told] == [context.dagster_run.run_id]


class Log(logging.Logger):
    def __init__(self):
        super().__init__("kept")
        self.lines = []

    def error(self, msg, *_, **__):
        self.lines.append(msg)


def test_a_webhook_gets_it_as_json(context):
    got = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Taker) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        log = Log()
        WebhookNotifier(url=f"http://127.0.0.1:{server.server_port}/hook").tell(message(context), log)
        server.shutdown()
        thread.join()
    assert got == [message(context)]
    assert len(log.lines) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/TOKEN", "file:///etc/TOKEN", "TOKEN"])
def test_one_that_cannot_be_told_breaks_nothing_and_is_not_named(context, url):
    log = Log()
    WebhookNotifier(url=url).tell(message(context), log)
    assert "could not be told" in log.lines[-1]
    assert "TOKEN" not in " ".join(log.lines)


def test_the_environment_says_who_is_told(tmp_path, monkeypatch):
    assert isinstance(notifier(Settings.from_env({"EHR_HOME": str(tmp_path)})), LogNotifier)
    monkeypatch.setenv("EHR_NOTIFY_URL", "https://hooks/TOKEN")
    webhook = notifier(
        Settings.from_env({"EHR_HOME": str(tmp_path), "EHR_NOTIFY_URL": "https://hooks/TOKEN"})
    )
    assert isinstance(webhook, WebhookNotifier)
    assert "TOKEN" not in repr(webhook._config_schema.default_value)
    assert webhook.process_config_and_initialize().url == "https://hooks/TOKEN"
