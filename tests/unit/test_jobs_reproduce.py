"""`ehr reproduce` around the chain that it runs: what it refuses, what it says of what came out."""

import json
import subprocess
from pathlib import Path

import pytest
from lineage_support import MadeUp
from rich.console import Console

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.provenance import keep_run
from ehr_assets.settings import Settings
from jobs import reproduce
from jobs.reproduce import OUTCOME, REQUEST, reproduce_closure


class Remade:
    """In place of the process that runs the chain: makes the datasets anew, some with another content."""

    def __init__(self, made, **outcome):
        self.made, self.outcome, self.altered, self.env, self.request = made, outcome, set(), {}, {}

    def __call__(self, command, env, **_):
        work = Path(command[-1])
        self.env, self.request = env, json.loads((work / REQUEST).read_text())
        again, made = MadeUp(Path(env["EHR_HOME"])), {}
        for name, dataset in self.made.made.items():
            content = (dataset.path / "content.txt").read_text().removeprefix(f"{name} ")
            inputs = [i.asset for i in dataset.manifest.inputs]
            others = {
                f.path: (dataset.path / f.path).read_bytes()
                for f in dataset.manifest.files
                if f.path != "content.txt"
            }
            files = {n: (lambda p, data=data: p.write_bytes(data)) for n, data in others.items()}
            content = content + "!" if name in self.altered else content
            new = again.make(name, *inputs, content=content, files=files)
            made[name] = {"data_version": new.data_version, "dataset": again.path(name)}
        outcome = {"code": [], "made": made, "failed": None, **self.outcome}
        (work / OUTCOME).write_text(json.dumps(outcome))
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def made(tmp_path):
    return MadeUp(tmp_path / "home").chain()


@pytest.fixture
def run(made, monkeypatch, tmp_path):
    """Reproduces demo/checkpoint with a stand-in for the process; gives both."""

    def run(altered=(), anyway=False, home=None, **outcome):
        remade = Remade(made, **outcome)
        remade.altered = set(altered)
        monkeypatch.setattr(reproduce.subprocess, "run", remade)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(reproduce.tempfile, "tempdir", None)
        settings = Settings(home=made.store.home)
        return reproduce_closure(settings, "demo/checkpoint", Console(), anyway=anyway, home=home), remade

    return run


def test_equal_contents_agree_and_leave_nothing_behind(run, made, tmp_path):
    done, remade = run()
    assert done.first is None
    assert len(done.agrees) == 8
    assert all(done.agrees.values())
    assert set(remade.request["code_versions"]) == set(done.agrees)
    assert not list(tmp_path.glob("ehr-reproduce-*"))
    last = list(AuditLog(made.store.home).entries())[-1]
    assert (last.action, last.facts["differ"]) == ("reproduced", [])


def test_the_first_that_differs_is_named_with_its_files(run):
    done, _ = run(altered=["x/token_corpus", "demo/checkpoint"])
    assert done.first == "x/token_corpus (content.txt)"
    assert [a for a, same in done.agrees.items() if not same] == ["x/token_corpus", "demo/checkpoint"]
    assert done.home.is_dir(), "kept, to be looked at"


def test_it_runs_with_the_recorded_settings_and_touches_nothing_here(run, made, monkeypatch, tmp_path):
    specs = tmp_path / "specs" / "cohorts"
    specs.mkdir(parents=True)
    (specs / "mine.yaml").write_text("name: mine\n")
    keep_run(made.store.home, "run-1", {"recipes/demo": {"lr": 0.1}}, (tmp_path / "specs",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://production")
    monkeypatch.setenv("EHR_POSTGRES_URL", "postgresql://production")
    monkeypatch.setenv("EHR_ALLOW_FAILED_CHECKS", "no")
    monkeypatch.setenv("EHR_OVERRIDES", "{}")
    done, remade = run(home=tmp_path / "kept")
    assert not any("not kept" in note for note in done.notes)
    assert json.loads(remade.env["EHR_OVERRIDES"]) == {"recipes/demo": {"lr": 0.1}}
    assert (Path(remade.env["EHR_SPECS"]) / "cohorts" / "mine.yaml").read_text() == "name: mine\n"
    assert Path(remade.env["EHR_HOME"]).is_relative_to(tmp_path / "kept")
    production = {"MLFLOW_TRACKING_URI", "EHR_POSTGRES_URL", "EHR_ALLOW_FAILED_CHECKS"}
    assert not production & remade.env.keys(), "runs made to compare would be the newest there"


@pytest.mark.parametrize("what", ["code", "packages"])
def test_other_code_or_packages_are_refused_unless_asked_for(run, monkeypatch, what):
    outcome = {"code": ["x/token_corpus: made by code version a; here it is b"]} if what == "code" else {}
    if what == "packages":
        monkeypatch.setattr(reproduce, "lock_hash", lambda: "f" * 64)
    with pytest.raises(DatasetError, match="not be made by what is recorded") as refused:
        run(**outcome)
    assert "--anyway" in str(refused.value)
    done, _ = run(anyway=True, **outcome)
    assert done.first is None
    assert any("here" in note or "installed" in note for note in done.notes)


def test_what_stops_it_is_said(run, made, tmp_path):
    with pytest.raises(DatasetError, match="to its end: raw tables are gone"):
        run(failed="raw tables are gone")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(DatasetError, match="not empty"):
        run(home=tmp_path / "full")
    for file in (made.store.home / made.path("c/meds_events")).iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match=r"gone, so nothing can be compared: .*c/meds_events"):
        run()
