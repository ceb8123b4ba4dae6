"""Secrets are refused wherever they would be stored, by an error that does not quote them."""

import json

import pytest
import yaml
from dagster import AssetExecutionContext, DagsterInstance, asset, materialize

from ehr_assets.catalog import BUILT_IN
from ehr_assets.credentials import refuse_secrets
from ehr_assets.errors import SpecError
from ehr_assets.settings import PROJECT_ROOT, Settings
from ehr_assets.specs import read_yaml
from resources.confidential import keep_confidential
from resources.storage import Datasets
from resources.tracking import MlflowTracking

# Put together here, so that no scanner of sources takes them for real ones.
SECRETS = {
    "an AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a password in an address": "postgresql://ehr:" + "hunter2@db:5432/mlflow",
    "without a user": "redis://:" + "hunter2@cache",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE",
    "GitHub": "ghp_" + "a1B2" * 9,
    "Hugging Face": "hf_" + "a1B2" * 9,
    "Slack": "xoxb-" + "1234567890-abc",
    "a JWT": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0." + "abcdefgh1234",
    "a header": "Authorization: Bearer " + "a1b2c3d4" * 4,
    "a signed address": "https://b.s3.amazonaws.com/k?X-Amz-Signature=" + "0f" * 32,
    "a command": "sshpass -p " + "hunter2 ssh",
    "an option": "client --password " + "hunter2",
}


@pytest.mark.parametrize("value", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_refused_by_its_look_and_not_quoted(value):
    with pytest.raises(SpecError, match=r"source\.0\.note") as caught:
        refuse_secrets({"source": [{"note": f"see {value}"}]}, "a file")
    assert "hunter2" not in str(caught.value)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["password", "db_password", "aws_secret_access_key", "api_key", "client_secret", "access_token"]
)
def test_a_secret_is_refused_by_its_key(key):
    with pytest.raises(SpecError, match=key) as caught:
        refuse_secrets({"resources": {"x": {"config": {key: "correct horse"}}}}, "the run's config")
    assert "horse" not in str(caught.value)


def test_a_secret_as_a_key_is_not_quoted_either():
    value = SECRETS["an AWS key"]
    with pytest.raises(SpecError) as caught:
        refuse_secrets({value: 1}, "a file")
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {"password": {"env": "DB_PASSWORD"}},
        {"password": "$DB_PASSWORD"},
        {"password": ""},
        {
            "max_tokens": 512,
            "tokenizer": "bpe",
            "trainable_tokens": "all",
            "person_key": "person_source_value",
        },
        {"title": "Basic metabolic panel; Bearer of a mutation of BRCA1; password reset of the portal"},
        {"revision": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        {
            "uri": "https://example.org:8080/a@b",
            "root": "s3://bucket/prefix",
            "tracking": "sqlite:////a/b.db",
        },
    ],
)
def test_what_is_no_secret_is_let_pass(data):
    refuse_secrets(data, "a file")


def test_no_spec_of_ours_is_taken_for_a_secret():
    files = [f for folder in BUILT_IN.values() for f in folder.rglob("*.yaml")]
    files += (PROJECT_ROOT / "ehr_assets" / "paper").rglob("*.yaml")
    assert len(files) > 30
    for file in files:
        read_yaml(file)


def test_a_spec_file_is_looked_through(tmp_path):
    file = tmp_path / "cohort.yaml"
    file.write_text(yaml.safe_dump({"source": {"root_env": SECRETS["a password in an address"]}}))
    with pytest.raises(SpecError, match=r"source\.root_env") as caught:
        read_yaml(file)
    assert str(file) in caught.value.where


def test_the_environment_is_looked_through_where_it_is_stored():
    overrides = json.dumps({"recipes/x": {"backbone.path": SECRETS["a password in an address"]}})
    for name, value in {
        "EHR_OVERRIDES": overrides,
        "EHR_REMOTE_SHELL": SECRETS["a command"],
        "EHR_HOME": "s3://key:" + "hunter2@bucket/home",
        "EHR_ALLOW_FAILED_CHECKS": f"I may: {SECRETS['an AWS key']}",
    }.items():
        with pytest.raises(SpecError) as caught:
            Settings.from_env({name: value})
        assert name in caught.value.where
        assert value not in str(caught.value)
        assert "hunter2" not in str(caught.value)
    Settings.from_env({"MLFLOW_TRACKING_URI": SECRETS["a password in an address"]})  # by name, never by value


@asset(config_schema={"note": str, "given": dict})
def made(context: AssetExecutionContext, datasets: Datasets):
    def build(step):
        (step.out / "file").write_text("x")
        return {}

    return datasets.materialize(context, build)


keep_confidential([made])


def run(home, note, given=None, tags=None):
    config = {"ops": {"made": {"config": {"note": note, "given": given or {}}}}}
    return materialize(
        [made],
        instance=DagsterInstance.ephemeral(),
        resources={"datasets": Datasets(home=str(home), gates={})},
        run_config=config,
        tags=tags,
        raise_on_error=False,
    )


def test_a_run_that_was_given_a_secret_does_nothing_and_says_what_to_do(tmp_path):
    secret = SECRETS["a password in an address"]
    for refused, key in (
        (run(tmp_path, secret), "ops.made.config.note"),
        (run(tmp_path, "x", {"password": secret}), "ops.made.config.given.password"),
        (run(tmp_path, "x", tags={"note": secret}), "note"),
    ):
        (failed,) = (e for e in refused.all_events if e.is_step_failure)
        said = failed.step_failure_data.user_failure_data.description
        assert key in said
        assert f"dagster run delete {refused.run_id}" in said
        assert "hunter2" not in str(failed)
    assert not list(tmp_path.rglob("_manifest.json"))
    assert run(tmp_path, "x", {"password": {"env": "DB_PASSWORD"}}).success


def test_a_training_reads_the_address_with_the_password_from_the_environment(monkeypatch):
    uri = SECRETS["a password in an address"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert MlflowTracking(uri=uri).told("r") == {"uri": None, "run_id": "r"}
    assert MlflowTracking(uri="sqlite:///m.db").told("r")["uri"] == "sqlite:///m.db"
