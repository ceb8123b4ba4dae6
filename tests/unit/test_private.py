"""What is written is its owner's alone, whichever door a process came in by."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from ehr_assets.private import keep_private, open_to_others
from ehr_assets.settings import Settings
from jobs.cli import main
from jobs.cli.doctor import _private
from jobs.instance import prepare_home


@pytest.fixture(autouse=True)
def generous():
    """As most machines are set up; and left as found."""
    before, hangup = os.umask(0o022), signal.getsignal(signal.SIGHUP)
    yield
    os.umask(before)
    signal.signal(signal.SIGHUP, hangup)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_command_is_private_before_it_does_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "app", lambda: (tmp_path / "written").write_text("x"))
    main.run_command()
    assert mode(tmp_path / "written") == 0o600


def test_the_code_location_is_private_and_so_is_what_it_starts(tmp_path):
    code = "import os, subprocess, ehr_assets.definitions; subprocess.run(['touch', os.environ['WRITTEN']])"
    env = {**os.environ, "EHR_HOME": str(tmp_path / "home"), "WRITTEN": str(tmp_path / "written")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=600)
    assert mode(tmp_path / "written") == 0o600


def test_a_home_that_is_made_is_closed_and_its_configuration_too(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("EHR_HOME", "")
    keep_private()
    prepare_home(Settings(home=tmp_path / "home"))
    assert [mode(tmp_path / "home"), mode(tmp_path / "home" / "dagster")] == [0o700, 0o700]
    assert mode(tmp_path / "home" / "dagster" / "dagster.yaml") == 0o600
    assert _private(tmp_path / "home")[0] is True


def test_the_doctor_says_where_an_older_home_is_open(tmp_path):
    (tmp_path / "home").mkdir(mode=0o755)
    assert open_to_others(tmp_path / "home")
    ok, _, said = _private(tmp_path / "home")
    assert ok is None
    assert f"chmod -R go= {tmp_path / 'home'}" in said
    assert not open_to_others(tmp_path / "nowhere")
