"""What nginx and systemd are told, who may come in, and that servers do not outlive who started them."""

import configparser
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest
from typer.testing import CliRunner

from ehr_assets.errors import SpecError
from ehr_assets.settings import Settings
from jobs.cli.main import app
from jobs.uis.accounts import accounts_file, names, remove_account, set_account
from jobs.uis.servers import (
    _answers,
    ending_with_us,
    public_environment,
    run_uis,
    server_commands,
    server_environment,
)
from jobs.uis.site import Site, render_site, render_units

PASSWORD = "correct horse battery"
SITE = Site("127.0.0.1:8080", 3001, 3002, "http://127.0.0.1:5000")


def test_an_account_is_kept_hashed_and_private(tmp_path):
    set_account(tmp_path / "ui", "auditors", "ann", PASSWORD)
    set_account(tmp_path / "ui", "auditors", "ben", PASSWORD)
    file = accounts_file(tmp_path / "ui", "auditors")
    first = file.read_text()
    assert PASSWORD not in first
    assert first.splitlines()[0].startswith("ann:$6$")
    ann, ben = (line.partition(":")[2] for line in first.splitlines())
    assert ann != ben, "salted"
    set_account(tmp_path / "ui", "auditors", "ann", "another " + PASSWORD)
    assert sorted(names(tmp_path / "ui", "auditors")) == ["ann", "ben"]
    remove_account(tmp_path / "ui", "auditors", "ann")
    assert names(tmp_path / "ui", "auditors") == ["ben"]
    assert names(tmp_path / "ui", "engineers") == []
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("group", "name", "password", "said"),
    [
        ("admins", "ann", PASSWORD, "There is no group"),
        ("auditors", "a:b", PASSWORD, "cannot be the name"),
        ("auditors", "a\nb", PASSWORD, "cannot be the name"),
        ("auditors", "", PASSWORD, "cannot be the name"),
        ("auditors", "ann", "short", "fewer than 12"),
    ],
)
def test_accounts_that_cannot_be(tmp_path, group, name, password, said):
    with pytest.raises(SpecError, match=said) as e:
        set_account(tmp_path, group, name, password)
    assert password not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_an_account_that_is_not_there_cannot_be_removed(tmp_path):
    with pytest.raises(SpecError, match="no account 'ann'"):
        remove_account(tmp_path, "auditors", "ann")


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"mlflow": "http://me:secret@host:5000"}, "mlflow"),
        ({"mlflow": "http://host:5000/; return 200"}, "mlflow"),
        ({"sign_on": "ftp://host"}, "sign_on"),
        ({"server_name": "a; deny all"}, "server_name"),
        ({"listen": "80;\n}"}, "listen"),
        ({"certificate": "/etc/a.pem"}, "certificate, key"),
    ],
)
def test_what_a_configuration_cannot_hold_is_refused(changed, where):
    given = {"listen": "80", "engineers": 1, "auditors": 2, "mlflow": "http://127.0.0.1:5000", **changed}
    with pytest.raises(SpecError) as e:
        Site(**given)
    assert e.value.where == where
    assert "secret" not in str(e.value)


def test_rendering_again_keeps_the_accounts(tmp_path):
    render_site(SITE, tmp_path / "ui")
    set_account(tmp_path / "ui", "auditors", "ann", PASSWORD)
    render_site(SITE, tmp_path / "ui")
    assert names(tmp_path / "ui", "auditors") == ["ann"]
    with pytest.raises(SpecError, match="cannot hold this path"):
        render_site(SITE, tmp_path / 'a"b')


def test_the_units_run_the_servers_and_hold_no_password(tmp_path):
    settings = Settings(tmp_path, tracking_uri="postgresql://db/mlflow?user=me&password=pssst")
    assert server_environment(settings)["MLFLOW_BACKEND_STORE_URI"] == settings.mlflow_uri
    shown = public_environment(settings)
    assert public_environment(Settings(tmp_path))["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:")
    commands = server_commands(SITE, settings)
    assert not any("pssst" in word for command in commands.values() for word in command)
    files = render_units(commands, shown, tmp_path / "systemd")
    assert [f.name for f in files] == [
        f"ehr-{n}.service" for n in ("engineers", "auditors", "mlflow", "daemon")
    ]
    for file in files:
        assert "pssst" not in file.read_text()
        unit = configparser.RawConfigParser(strict=False)
        unit.optionxform = str
        unit.read(file)
        assert unit["Service"]["ExecStart"].split()[0].startswith("/")
        assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_an_mlflow_server_that_is_there_is_not_started_again(tmp_path):
    settings = Settings(tmp_path, tracking_uri="http://mlflow.example:5000")
    assert "mlflow" not in server_commands(SITE, settings)
    assert "MLFLOW_BACKEND_STORE_URI" not in server_environment(settings)


def test_the_command_renders_and_asks_for_passwords(tmp_path, monkeypatch):
    monkeypatch.setenv("EHR_HOME", str(tmp_path / "home"))
    runner = CliRunner()
    asked = runner.invoke(app, ["ui", "account", "auditors", "ann"], input=f"{PASSWORD}\n{PASSWORD}\n")
    assert asked.exit_code == 0
    assert PASSWORD not in asked.output
    assert names(tmp_path / "home" / "ui", "auditors") == ["ann"]
    said = runner.invoke(app, ["ui", "render", str(tmp_path / "site"), "--server-name", "ehr.example"])
    assert said.exit_code == 0
    assert "server_name ehr.example;" in (tmp_path / "site" / "ehr.conf").read_text()
    assert (tmp_path / "site" / "systemd" / "ehr-auditors.service").exists()
    assert names(tmp_path / "site", "auditors") == []


def test_without_an_account_nothing_is_started(tmp_path):
    with pytest.raises(SpecError, match="there is no account yet"):
        run_uis(Settings(tmp_path), SITE, lambda: None)


def test_servers_are_asked_directly_whatever_proxy_the_environment_names(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert _answers(f"http://127.0.0.1:{server.server_port}/")  # 501 is an answer, too


def test_servers_end_when_who_started_them_is_killed():
    lasting = [sys.executable, "-c", "import time; time.sleep(600)"]
    program = (
        "from resources.process_groups import own_groups; import os, psutil, time\n"
        f"with own_groups([{ending_with_us(lasting)!r}], os.environ, 1):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        for _ in range(600):  # setpriv has become the command
            if child.cmdline() == lasting:
                break
            psutil.wait_procs([child], timeout=0.1)
        parent.kill()
    assert not psutil.wait_procs([child], timeout=120)[1]
