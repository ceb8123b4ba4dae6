"""What a retraining takes in, when it is requested, and that nothing starts by itself unasked."""

import json
from datetime import UTC, datetime

import pytest
from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    build_run_status_sensor_context,
    build_schedule_context,
)
from dagster._core.test_utils import create_run_for_test

from ehr_assets.build import build_project
from ehr_assets.errors import SpecError
from ehr_assets.settings import Settings
from jobs.retraining import RETRAINING_TAG, Choice, Retraining, load_retraining, retraining_file
from resources.storage import ONLY_IF_CHANGED_TAG

COHORT, REPORT = "synthetic_oncology", "synthetic_oncology"
RECIPE = "smb_sft_demo"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return build_project(
        Settings(home=tmp_path_factory.mktemp("home"), retraining=json.dumps({"cohort": COHORT}))
    )


@pytest.fixture(scope="module")
def retraining(project) -> Retraining:
    return chains(project)


def chains(project) -> Retraining:
    return Retraining(project.catalog, list(project.definitions.assets))


@pytest.fixture
def instance(tmp_path):
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def names(keys):
    return {key.to_user_string() for key in keys}


def test_a_report_means_its_chain_from_the_raw_tables_on(retraining):
    found = names(retraining.assets(Choice(reports=(REPORT,))))
    assert {f"{COHORT}/raw_tables", f"{RECIPE}/checkpoint", f"{REPORT}/report", f"{COHORT}/profile"} <= found
    assert not {name for name in found if name.endswith(("promotion", "rollback"))}
    assert found == names(retraining.assets(Choice(cohort=COHORT)))
    assert found == names(retraining.assets(Choice(cohort=COHORT, recipes=(RECIPE,))))


def test_recipes_alone_mean_their_scores_and_the_reports_that_show_no_others(retraining):
    found = names(retraining.assets(Choice(recipes=(RECIPE,))))
    assert f"{RECIPE}/probe_metrics" in found
    assert {name for name in found if name.endswith("/report")} == {f"{REPORT}/report"}
    other = next(r for r in retraining.catalog.recipes if r != RECIPE and r not in retraining.seeded)
    assert f"{other}/checkpoint" not in found


def test_a_recipe_that_no_report_shows_can_be_chosen(tmp_path, retraining):
    (tmp_path / "recipes").mkdir()
    made = retraining.catalog.recipes[RECIPE].model_dump(mode="json", exclude={"name"})
    (tmp_path / "recipes" / "alone.yaml").write_text(json.dumps({"name": "alone", **made}))
    project = build_project(Settings(home=tmp_path, spec_dirs=(tmp_path,)))
    keys = chains(project).assets(Choice(recipes=("alone",)))
    assert "alone/probe_metrics" in names(keys)
    job = project.definitions.get_repository_def().get_job("retrain")
    assert set(keys) <= set(job.asset_layer.executable_asset_keys)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), "Nothing is chosen"),
        (Choice(reports=("synthetic_oncolgy",)), "no report 'synthetic_oncolgy'.*synthetic_oncology"),
        (Choice(cohort="x"), "no cohort 'x'"),
        (Choice(cohort="omop"), r"no report about 'omop'\.\n"),
        (Choice(cohort="tcga", recipes=(RECIPE,)), f"no report about 'tcga' that shows {RECIPE}"),
        (Choice(recipes=("x",)), "no recipe 'x'"),
    ],
)
def test_what_cannot_be_meant(retraining, choice, expected):
    with pytest.raises(SpecError, match=expected):
        retraining.assets(choice)


def test_recipes_of_several_seeds_are_no_single_run(retraining):
    assert retraining.seeded, "else this says nothing"
    report = next(n for n, r in retraining.catalog.reports.items() if retraining.seeded & set(r.recipes))
    with pytest.raises(SpecError, match="several seeds"):
        retraining.assets(Choice(reports=(report,)))


def test_nothing_starts_by_itself_unasked(project):
    repository = project.definitions.get_repository_def()
    (schedule,) = repository.schedule_defs
    assert schedule.default_status is DefaultScheduleStatus.STOPPED
    running = {s.name for s in repository.sensor_defs if s.default_status is DefaultSensorStatus.RUNNING}
    assert running == {"audit_log", "failed_runs", "retraining_chosen"}, "none asks for anything by itself"
    assert {s.name for s in repository.sensor_defs} - running == {"raw_tables_changed", "automation"}


def test_a_tick_requests_one_run_of_the_whole_chain(project, retraining, instance):
    repository = project.definitions.get_repository_def()
    schedule = repository.get_schedule_def("retraining")
    at = datetime(2026, 1, 4, 2, tzinfo=UTC)
    with build_schedule_context(instance, scheduled_execution_time=at, repository_def=repository) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
        assert set(request.asset_selection) == set(retraining.assets(Choice(cohort=COHORT)))
        assert request.tags[RETRAINING_TAG] == "retraining"
        assert request.tags[ONLY_IF_CHANGED_TAG] == "true"
        job = repository.get_job("retrain").get_subset(asset_selection=set(request.asset_selection))
        assert set(job.asset_layer.executable_asset_keys) == set(request.asset_selection)
        create_run_for_test(instance, "retrain", tags=dict(request.tags))
        assert "still open" in schedule.evaluate_tick(context).skip_message


def run(job, instance, op, config):
    return job.execute_in_process(
        instance=instance, run_config={"ops": {op: {"config": config}}}, raise_on_error=False
    )


def test_what_is_set_in_the_launchpad_is_what_the_schedule_takes(project, retraining, instance):
    repository = project.definitions.get_repository_def()
    job = repository.get_job("set_retraining")
    try:
        refused = run(job, instance, "keep", {"cohort": COHORT, "cron": "at noon"})
        assert not refused.success
        assert not retraining_file(project.settings).exists()
        assert not run(job, instance, "keep", {"cohort": "x"}).success
        asked = {"recipes": [RECIPE], "cron": "30 4 * * 1", "timezone": "Europe/Berlin"}
        assert run(job, instance, "keep", asked).success
        spec = load_retraining(project.settings)
        assert (spec.cron, spec.timezone, spec.recipes) == ("30 4 * * 1", "Europe/Berlin", (RECIPE,))
        assert spec.cohort == "", "the environment's is no part of what was chosen"
        anew = build_project(project.settings).definitions.get_repository_def()
        schedule = anew.get_schedule_def("retraining")
        assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 4 * * 1", "Europe/Berlin")
    finally:
        retraining_file(project.settings).unlink(missing_ok=True)


def test_a_secret_in_the_launchpad_is_refused_and_not_kept(project, instance):
    job = project.definitions.get_repository_def().get_job("set_retraining")
    refused = run(job, instance, "keep", {"cohort": "postgresql://me:" + "hunter2@db/x"})
    (failed,) = (e for e in refused.all_events if e.is_step_failure)
    assert "A secret does not belong here: ops.keep.config.cohort" in str(failed)
    assert "hunter2" not in str(failed)
    assert not retraining_file(project.settings).exists()


def test_a_choice_in_the_launchpad_is_followed_by_its_run(project, retraining, instance):
    repository = project.definitions.get_repository_def()
    result = run(repository.get_job("retrain_chosen"), instance, "choose", {"recipes": [RECIPE]})
    assert result.success
    sensor = repository.get_sensor_def("retraining_chosen")
    event = next(e for e in result.all_events if e.event_type_value == "PIPELINE_SUCCESS")
    context = build_run_status_sensor_context(
        "retraining_chosen", event, instance, result.dagster_run, repository_def=repository
    )
    request = sensor(context)
    assert set(request.asset_selection) == set(retraining.assets(Choice(recipes=(RECIPE,))))
    assert request.run_key == result.run_id
    refused = run(repository.get_job("retrain_chosen"), instance, "choose", {"recipes": ["x"]})
    assert not refused.success, "and no run follows"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[]", "no mapping|not a mapping"),
        ("{", "not a mapping"),
        ('{"cron": "0 0 * *"}', "cron"),
        ('{"timezone": "Mars/Base"}', "timezone"),
        ('{"warn_days": 9, "fail_days": 3}', "warn_days must be less"),
        ('{"cohorts": "x"}', "cohorts"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, given, expected):
    with pytest.raises(SpecError, match=expected):
        load_retraining(Settings(home=tmp_path, retraining=given))


def test_without_a_choice_a_tick_says_so(tmp_path, instance):
    repository = build_project(Settings(home=tmp_path)).definitions.get_repository_def()
    with build_schedule_context(instance, repository_def=repository) as context:
        result = repository.get_schedule_def("retraining").evaluate_tick(context)
    assert "Nothing is chosen" in str(result.skip_message)
