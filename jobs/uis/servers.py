"""The servers behind nginx, as commands; and all of them run on one machine until somebody stops them."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ehr_assets.errors import EhrError, SpecError
from ehr_assets.settings import PROJECT_ROOT, Settings
from jobs.uis.accounts import GROUPS, names
from jobs.uis.site import Site, render_site
from resources.process_groups import own_groups

BACKEND = "MLFLOW_BACKEND_STORE_URI"
GRACE = 10.0  # seconds that the servers have to end
PATIENCE = 300.0  # seconds until they must answer: a cold start on a slow disk


class ServerEndedError(EhrError):
    """A server that did not start, or ended although nobody asked it to."""


def server_commands(site: Site, settings: Settings, *, daemon: bool = True) -> dict[str, list[str]]:
    """The commands behind nginx by name, to be run in the checkout with `server_environment`.

    MLflow is one of them unless the settings name a server that is there already.
    """
    here = Path(sys.executable).parent
    commands = {
        "engineers": [
            *(str(here / "dagster-webserver"), "--workspace", "workspace.yaml"),
            *("--host", "127.0.0.1", "--port", str(site.engineers), "--path-prefix", "/engineers"),
        ],
        "auditors": [
            *(sys.executable, "-m", "jobs.uis.auditors"),
            *("--port", str(site.auditors), "--path-prefix", "/audit"),
        ],
    }
    if not _is_server(settings.mlflow_uri):
        port = site.mlflow.rpartition(":")[2]
        commands["mlflow"] = [
            *(str(here / "mlflow"), "server", "--host", "127.0.0.1", "--port", port),
            *("--workers", "1", "--no-serve-artifacts"),
        ]
    if daemon:
        commands["daemon"] = [str(here / "dagster-daemon"), "run", "--workspace", "workspace.yaml"]
    return commands


def server_environment(settings: Settings) -> dict[str, str]:
    """What the servers' environment holds besides what it is for all commands.

    The database's address is handed over here, not in a command line: it may hold a password.
    """
    own = {
        "DAGSTER_HOME": str(settings.dagster_home),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if not _is_server(settings.mlflow_uri):
        own[BACKEND] = settings.mlflow_uri
        own["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = (settings.home / "mlartifacts").as_uri()
    return own


def public_environment(settings: Settings) -> dict[str, str]:
    """What of it may stand in a file: not a database's address."""
    own = server_environment(settings)
    return {k: v for k, v in own.items() if k != BACKEND or v.startswith("sqlite:")}


def loopback_site(settings: Settings, port: int) -> Site:
    """A site of this machine alone: on `port`, with servers on free ports."""
    engineers, auditors, mlflow = _free_ports(3)
    tracked = settings.mlflow_uri if _is_server(settings.mlflow_uri) else f"http://127.0.0.1:{mlflow}"
    user = pwd.getpwuid(0).pw_name if os.geteuid() == 0 else ""  # not by LOGNAME, which sudo may keep
    pages = str(settings.home / "datasets")
    return Site(f"127.0.0.1:{port}", engineers, auditors, tracked.rstrip("/"), pages=pages, user=user)


def ui_folder(settings: Settings) -> Path:
    """Where an installation keeps its accounts and nginx' files."""
    return settings.home / "ui"


def run_uis(settings: Settings, site: Site, ready: Callable[[], None], *, daemon: bool = True) -> None:
    """Starts nginx and the servers behind it; comes back when a signal (INT, TERM) asked for the end.

    None of their processes is left then. `ready` is called once all of them answer.

    Raises:
        SpecError: no account, no nginx.
        ServerEndedError: a server ended by itself.
    """
    folder = ui_folder(settings)
    if not any(names(folder, group) for group in GROUPS):
        raise SpecError(
            "Nobody could come in: there is no account yet.",
            where=str(folder),
            do="Make one: ehr ui account engineers NAME, ehr ui account auditors NAME.",
        )
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if nginx is None:
        raise SpecError("There is no nginx on this machine.", where="PATH", do="Install nginx.")
    config = render_site(site, folder)
    commands = server_commands(site, settings, daemon=daemon)
    commands["nginx"] = [nginx, "-e", "stderr", "-p", str(folder), "-c", str(config)]
    os.chdir(PROJECT_ROOT)
    env = {**os.environ, **server_environment(settings)}
    stopped = threading.Event()
    started = [ending_with_us(command) for command in commands.values()]
    with _signals(stopped), own_groups(started, env, GRACE) as groups:
        _wait_until_up(site, groups.ended, stopped)
        if not stopped.is_set() and groups.ended() is None:
            ready()
        while not stopped.wait(0.5):
            if found := groups.ended():
                which, code = found
                last = "\n    ".join(list(groups.tail)[-5:])
                raise ServerEndedError(
                    f"A server ended by itself (exit code {code}). The last lines of all:\n    {last}",
                    where=list(commands)[which],
                    do="Mend what is named above and start again.",
                )


def ending_with_us(command: Sequence[str]) -> list[str]:
    """The command, which the kernel ends (TERM) should this process be killed; as it is, without setpriv."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else list(command)


def _wait_until_up(site: Site, ended: Callable[[], object], stopped: threading.Event) -> None:
    asked = [
        f"http://127.0.0.1:{site.engineers}/engineers/server_info",
        f"http://127.0.0.1:{site.auditors}/audit/server_info",
        f"{site.mlflow}/health",
    ]
    until = time.monotonic() + PATIENCE
    while asked and ended() is None and not stopped.wait(0.2):
        asked = [url for url in asked if not _answers(url)]
        if time.monotonic() > until:
            raise ServerEndedError(
                "The servers do not answer.", where=", ".join(asked), do="Read what they printed above."
            )


def _answers(url: str) -> bool:
    # Not by the environment's proxy: it would answer in the server's place, and nginx asks none either.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _signals(stopped: threading.Event) -> Iterator[None]:
    """INT and TERM end the servers in order, and not this process in the middle of it."""
    before = {s: signal.signal(s, lambda *_: stopped.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _free_ports(count: int) -> list[int]:
    """Ports that are free now. Another process may take one before a server does: it ends, and says so."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
