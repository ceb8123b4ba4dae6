"""Servers for unit and integration tests alike; what they can do is in `servers.py`."""

import os

import pytest

from tests.servers import Postgres, S3Server

# Tests speak with servers on this machine alone, which a proxy could not reach.
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


@pytest.fixture(scope="session")
def s3_server():
    """An S3 store. Its faults are a test's own to set, and to take back: use `s3` for that."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The store, without faults, named by the environment; bucket `team` is empty."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.variables().items():
        monkeypatch.setenv(name, value)
    client = s3_server.client()
    client.create_bucket(Bucket="team")
    s3_server.requests.clear()
    yield s3_server
    s3_server.fault = lambda method, path: ""
    while found := client.list_objects_v2(Bucket="team").get("Contents"):
        client.delete_objects(Bucket="team", Delete={"Objects": [{"Key": item["Key"]} for item in found]})


@pytest.fixture(scope="session")
def postgres():
    """A Postgres server with the databases of `infra/postgres`; skipped where none is installed."""
    server = Postgres()
    yield server
    server.remove()
