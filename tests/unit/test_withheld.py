"""Errors that leave a stage quote no value, wherever in their chain it stood."""

import os
import signal
import traceback

import polars as pl
import pytest
from dagster import AssetCheckResult, DagsterInstance, Failure, asset, asset_check, materialize

from ehr_assets.errors import DatasetError, RawTableError
from ehr_assets.fanout import Crew
from ehr_assets.withheld import WithheldError, values_withheld, without_values
from resources.confidential import keep_confidential

VALUE = "Kowalczyk-70017"


def fails(_=None):
    pl.Series([VALUE]).cast(pl.Int64)


def fails_for_people(_=None):
    try:
        fails()
    except pl.exceptions.PolarsError as e:
        raise RawTableError("A column cannot be read.", where="table 'people'") from e


def told(function) -> str:
    with pytest.raises(Exception) as caught, values_withheld():  # noqa: PT011  which one is what is tested
        function()
    return "".join(traceback.format_exception(caught.value))


def test_a_librarys_message_is_withheld_and_its_place_is_not():
    said = told(fails)
    assert VALUE not in said
    assert "InvalidOperationError" in said
    assert "EHR_SHOW_MESSAGES" in said
    assert f'{__file__}", line' in said


def test_an_error_for_people_stays_and_what_it_arose_from_is_withheld():
    said = told(fails_for_people)
    assert "A column cannot be read." in said
    assert "InvalidOperationError" in said
    assert VALUE not in said


def test_errors_that_quote_no_value_keep_their_words():
    def gone():
        open("/nowhere/at/all")  # noqa: PTH123, SIM115

    assert "No such file or directory: '/nowhere/at/all'" in told(gone)


def test_errors_of_connections_keep_their_words_and_those_of_tasks_do_not():
    from botocore.exceptions import ClientError
    from psycopg2 import DataError, OperationalError
    from ray.exceptions import NodeDiedError, RayTaskError

    kept = [
        ClientError({"Error": {"Code": "503"}}, "PutObject"),
        OperationalError("no route"),
        NodeDiedError("n"),
    ]
    assert [without_values(e) for e in kept] == kept
    for e in (DataError(VALUE), RayTaskError("f", VALUE, ValueError(VALUE))):
        assert VALUE not in str(without_values(e))


def test_notes_on_an_error_are_withheld():
    def noted():
        e = DatasetError("It is gone.")
        e.add_note(f"while reading {VALUE}")
        raise e

    said = told(noted)
    assert "It is gone." in said
    assert VALUE not in said


def test_errors_of_one_another_come_to_an_end():
    def circle():
        one, other = ValueError(VALUE), KeyError(VALUE)
        one.__context__, other.__context__ = other, one
        raise one

    assert VALUE not in told(circle)


def test_a_workers_error_brings_no_value_either():
    def spread():
        with Crew(2) as crew:
            list(crew.map(fails_for_people, range(2)))

    said = told(spread)
    assert VALUE not in said
    assert "In a worker process" in said
    assert "test_withheld.py" in said


def test_messages_are_shown_where_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("EHR_SHOW_MESSAGES", "1")
    assert VALUE in told(fails)


def test_what_ends_a_process_is_no_error():
    with pytest.raises(KeyboardInterrupt), values_withheld():
        raise KeyboardInterrupt


def test_what_the_command_dies_of_is_printed_without_values(monkeypatch):
    from jobs.cli import main

    before = os.umask(0o077), signal.getsignal(signal.SIGHUP)
    monkeypatch.setattr(main, "app", fails)
    try:
        with pytest.raises(WithheldError) as caught:
            main.run_command()
    finally:
        os.umask(before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert VALUE not in "".join(traceback.format_exception(caught.value))


@asset
def plain():
    fails()


@asset
def refused():
    try:
        fails_for_people()
    except RawTableError as e:
        raise Failure(description=str(e), allow_retries=False) from e


@asset
def sound():
    pass


@asset_check(asset="sound")
def looks() -> AssetCheckResult:
    raise KeyError(VALUE)


def test_dagster_keeps_no_value_of_an_asset_or_a_check_that_raised():
    definitions = [plain, refused, sound, looks]
    keep_confidential(definitions)
    instance = DagsterInstance.ephemeral()
    result = materialize(definitions, instance=instance, raise_on_error=False)
    failed = [e for e in result.all_events if e.is_step_failure]
    assert {e.step_key for e in failed} == {"plain", "refused", "sound_looks"}
    kept = "".join(str(record.event_log_entry.to_json()) for record in _records(instance, result.run_id))
    assert VALUE not in kept
    assert WithheldError.__name__ in kept
    assert "A column cannot be read." in kept


def _records(instance, run_id):
    return instance.get_records_for_run(run_id).records


def test_every_asset_and_check_of_a_project_withholds(tmp_path):
    from ehr_assets.build import build_project
    from ehr_assets.settings import Settings

    found = build_project(Settings(home=tmp_path)).definitions
    computes = [d.node_def.compute_fn.decorated_fn for d in (*found.assets, *found.asset_checks)]
    assert len(computes) > 50
    assert all(f.__code__.co_filename.endswith("resources/confidential.py") for f in computes)


def test_a_dataset_error_is_unharmed():
    with pytest.raises(DatasetError, match="gone") as caught, values_withheld():
        raise DatasetError("It is gone.")
    assert caught.value.__cause__ is None
