"""Servers that tests start: an S3 store whose faults a test chooses, and a real Postgres.

Each lives on a free port of this machine, in a folder of its own, and ends with the fixture in `conftest.py`.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
KEY, SECRET = "AKIATESTKEY", "a-secret-nobody-may-read"
REFUSAL = "<Error><Code>{code}</Code><Message>{secret}</Message></Error>"


class S3Server:
    """moto's S3 with a switch in front.

    `fault(method, path)` says what becomes of a request: "" is answered; "503" and "403 CODE" are refused so;
    "cut" breaks off in the middle, of the answer to a GET and of the body of any other.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, *_args, **_more):
                pass

        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.requests: list[tuple[str, str]] = []
        self._store = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Silent)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def variables(self) -> dict[str, str]:
        """What the environment must say so that clients find it; with two attempts, for tests not to wait."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_MAX_ATTEMPTS": "2",
        }

    def client(self):
        import boto3

        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **keys)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        fault = self.fault(method, path)
        if fault == "cut" and method != "GET":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
            self._cut(environ)
        if fault == "cut":
            return self._half(environ, start_response)
        if fault:
            status, _, code = fault.partition(" ")
            body = REFUSAL.format(code=code or "SlowDown", secret=SECRET).encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response(f"{status} Refused", headers)
            return [body]
        return self._store(environ, start_response)

    def _half(self, environ, start_response):
        body = b"".join(self._store(environ, start_response))
        yield body[: max(1, len(body) // 2)]
        self._cut(environ)

    def _cut(self, environ):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError  # the server says nothing of it


class Postgres:
    """A Postgres of this test alone, with the databases of `infra/postgres`."""

    OWNER_PASSWORD, PASSWORD = "owner-secret", "s3cret/of:the@tests"

    def __init__(self) -> None:
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not installed:
            pytest.skip("no Postgres server is installed here (package postgresql)")
        self._bin = installed[-1]
        # Not in pytest's own folders: a server never runs as root, and only root may enter those.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._as = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
        self.port = _free_port()
        given = self.folder / "password"
        given.write_text(self.OWNER_PASSWORD)
        given.chmod(0o644)
        # As a server of a team would be, whatever LANG says here: without one, databases would be in ASCII.
        text = ["--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-U", "owner", "-A", "scram-sha-256", f"--pwfile={given}", "--no-sync", *text)
        self.start()
        try:
            self.make_databases()
        except BaseException:
            self.remove()  # no fixture has it yet
            raise

    def url(self, name: str) -> str:
        """The database `dagster` or `mlflow`, as its role."""
        from urllib.parse import quote

        return f"postgresql://{name}:{quote(self.PASSWORD, safe='')}@127.0.0.1:{self.port}/{name}"

    def make_databases(self) -> None:
        """Runs what an administrator runs."""
        env = {
            **os.environ,
            "PGPASSWORD": self.OWNER_PASSWORD,
            "EHR_DAGSTER_PASSWORD": self.PASSWORD,
            "EHR_MLFLOW_PASSWORD": self.PASSWORD,
        }
        at = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "owner", "-d", "postgres"]
        script = REPOSITORY / "infra" / "postgres" / "databases.sql"
        _done([str(self._bin / "psql"), *at, "-v", "ON_ERROR_STOP=1", "-f", str(script)], env=env)

    def ask(self, query: str) -> list[tuple]:
        """The rows of a query, as the owner of the server."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="owner", password=self.OWNER_PASSWORD, dbname="postgres"
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall()
        finally:
            connection.close()

    def drop_connections(self, database: str) -> int:
        """Ends every connection to a database; how many there were."""
        query = "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'"
        return len(self.ask(query.format(database)))

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-w", "-t", "120", "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is what a crash leaves."""
        self._run("pg_ctl", "-w", "-t", "120", "-m", mode, "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *args: str) -> None:
        _done([str(self._bin / program), "-D", str(self.folder / "data"), *args], cwd="/", **self._as)


def _done(command: list[str], **more) -> None:
    # To files, not pipes: a server that was started holds them open for ever.
    with tempfile.TemporaryFile("w+") as said:
        code = subprocess.run(command, stdout=said, stderr=said, timeout=300, **more).returncode
        said.seek(0)
        assert code == 0, said.read()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
