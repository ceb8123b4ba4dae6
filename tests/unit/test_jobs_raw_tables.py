"""The sensor of raw tables: contents that changed request one run; times that changed request none."""

import os
import shutil
import traceback
from pathlib import Path

import pytest
from dagster import DagsterInstance, build_sensor_context
from dagster._core.test_utils import create_run_for_test

from ehr_assets.build import build_project
from ehr_assets.cohorts import watch
from ehr_assets.cohorts.assets import raw_tables_key
from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.watch import look
from ehr_assets.errors import SpecError
from ehr_assets.settings import Settings
from ehr_assets.withheld import WithheldError
from jobs.retraining import RETRAINING_TAG, Retraining
from jobs.runner import ASSET_JOB
from jobs.sensors import _about

COHORT = "mimic_iv"
VALUE = "Kowalczyk-70017"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return build_project(Settings(home=tmp_path_factory.mktemp("home")))


class Watched:
    """MIMIC-IV's files with nothing in them, and the sensor over them."""

    def __init__(self, project, root, instance):
        self.root, self.instance, spec = root, instance, project.catalog.cohorts[COHORT]
        self.repository = project.definitions.get_repository_def()
        self.resources = {"datasets": project.definitions.resources["datasets"]}
        for table in [*spec.tables, *(j for t in spec.tables for j in t.joins)]:
            file = root / f"{table.file}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("a,b\n1,2\n")
        self.file = min(root.rglob("*.csv"))
        self.cursor = None

    def record(self):
        only = {"asset_selection": {raw_tables_key(COHORT)}, "asset_check_selection": set()}
        job = self.repository.get_job(ASSET_JOB).get_subset(**only)
        assert job.execute_in_process(instance=self.instance).success

    def tick(self):
        sensor = self.repository.get_sensor_def("raw_tables_changed")
        given = {"resources": self.resources, "repository_def": self.repository}
        with build_sensor_context(self.instance, self.cursor, **given) as context:
            found = sensor.evaluate_tick(context)
        self.cursor = found.cursor
        return found

    def settled(self):
        """The second of two looks: at the first, what changed may still be changing."""
        first = self.tick()
        assert not first.run_requests
        return self.tick()


@pytest.fixture
def watched(project, tmp_path, monkeypatch):
    monkeypatch.setenv(project.catalog.cohorts[COHORT].source.root_env, str(tmp_path / "raw"))
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield Watched(project, tmp_path / "raw", instance)


def test_only_contents_count(watched, monkeypatch):
    assert not watched.settled().run_requests, "nothing was made of it yet"
    watched.record()
    assert not watched.settled().run_requests
    hashed = []
    sha256 = RawFile.sha256
    monkeypatch.setattr(RawFile, "sha256", lambda self: hashed.append(self.path) or sha256(self))
    assert not watched.tick().run_requests
    assert hashed == [], "what nobody touched is not read again"
    os.utime(watched.file, ns=(1, 1))
    shutil.copy(watched.file, f"{watched.file}.new")
    Path(f"{watched.file}.new").replace(watched.file)
    assert not watched.settled().run_requests
    assert len(hashed) == 1, "touched, read, found the same"

    watched.file.write_text("a,b\n1,3\n")
    assert "files change" in watched.tick().skip_message, "somebody may still be writing"
    (request,) = watched.tick().run_requests
    assert request.tags[RETRAINING_TAG] == f"raw_tables_changed/{COHORT}"
    asked = {key.to_user_string() for key in request.asset_selection}
    assert {f"{COHORT}/raw_tables", f"{COHORT}/meds_events"} <= asked
    (again,) = watched.tick().run_requests
    assert again.run_key == request.run_key, "of which Dagster makes one run"

    run = create_run_for_test(watched.instance, "retrain", tags=dict(request.tags))
    assert "still open" in watched.tick().skip_message
    watched.instance.delete_run(run.run_id)
    watched.record()
    assert not watched.tick().run_requests
    watched.file.write_text("a,b\n1,2\n")
    (back,) = watched.settled().run_requests
    assert back.run_key != request.run_key, "back to what was before is a change, too"


def test_a_file_that_came_or_went_is_a_change(watched):
    watched.record()
    assert not watched.settled().run_requests
    watched.file.rename(watched.file.with_suffix(".csv.gone"))
    assert watched.settled().run_requests
    watched.file.with_suffix(".csv.gone").rename(watched.file)
    assert not watched.settled().run_requests
    needed = watched.root / "hosp" / "patients.csv"
    needed.unlink()
    said = watched.tick()
    assert not said.run_requests, "no run could succeed"
    assert "is missing" in str(said.skip_message)


def test_hashing_goes_on_where_the_last_look_had_to_stop(project, watched):
    cohort, files = project.catalog.cohorts[COHORT], {}
    files = look(cohort, files, 0).files
    for hashed in range(1, len(files) + 1):
        found = look(cohort, files, -1)
        files = found.files
        assert sum(sha is not None for _, _, sha in files.values()) == hashed
        assert (found.content is None) is (hashed < len(files))


def test_an_error_that_nobody_expected_brings_no_value_into_the_ticks(watched, monkeypatch):
    def fails(*_):
        raise ValueError(VALUE)

    watched.record()
    monkeypatch.setattr(watch, "look", fails)
    with pytest.raises(WithheldError) as caught:
        watched.tick()
    assert VALUE not in "".join(traceback.format_exception(caught.value))


def test_raw_tables_that_cannot_be_reached_request_nothing(watched, monkeypatch):
    watched.record()
    shutil.rmtree(watched.root)
    found = watched.tick()
    assert not found.run_requests
    assert COHORT in found.skip_message


def test_a_report_that_is_none_is_said_and_not_passed_over(project):
    settings = Settings(home=project.settings.home, retraining='{"reports": ["mimic"]}')
    assets = list(project.definitions.assets)
    with pytest.raises(SpecError, match="no report 'mimic'"):
        _about(Retraining(project.catalog, assets), settings, COHORT)
