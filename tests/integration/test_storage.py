"""A chain whose datasets lie on S3 and whose runs lie in Postgres; a second machine goes on with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BIN

from ehr_assets.lineage.manifest import MANIFEST_NAME
from tests.servers import SECRET, Postgres, S3Server

HOME, WANTED = "s3://team/hospital/ehr", "synthetic_oncology_tagged/token_corpus"
SMALL = {"cohorts/synthetic_oncology": {"source.subjects": 40}}
REPOSITORY = Path(__file__).parents[2]


class Machine:
    """A computer of the team: an empty disk, and the environment that says where everything is."""

    def __init__(self, disk: Path, s3: S3Server, postgres: Postgres) -> None:
        self.disk = disk
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("EHR_", "DAGSTER_", "MLFLOW_", "AWS_"))
        }
        self.env = {
            **env,
            **s3.variables(),
            "EHR_HOME": HOME,
            "EHR_CACHE": str(disk),
            "EHR_POSTGRES_URL": postgres.url("dagster"),
            "MLFLOW_TRACKING_URI": postgres.url("mlflow"),
            "EHR_OVERRIDES": json.dumps(SMALL),
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "200",
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in (SECRET, Postgres.PASSWORD))
        return done.stdout

    def bring_up_to_date(self) -> dict[str, list]:
        script = Path(__file__).with_name("some_assets.py")
        return json.loads(self.run(sys.executable, str(script), WANTED).splitlines()[-1])

    def files(self, pattern: str) -> list[Path]:
        return [p for p in self.disk.rglob(pattern) if p.is_file()]


@pytest.fixture(scope="module")
def first(s3_server, postgres, tmp_path_factory):
    """The machine that made the chain, and what it said of it."""
    s3_server.client().create_bucket(Bucket="team")
    machine = Machine(tmp_path_factory.mktemp("first"), s3_server, postgres)
    return machine, machine.bring_up_to_date()


def objects(s3):
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket="team")
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def test_the_datasets_lie_in_the_bucket(first, s3_server):
    _, made = first
    assert {state for state, _, _ in made.values()} == {"fresh"}
    found = objects(s3_server)
    for asset in made:
        at = f"hospital/ehr/datasets/{asset}/"
        assert any(key.startswith(at) and key.endswith(MANIFEST_NAME) for key in found), asset
    assert all(key.startswith("hospital/ehr/") for key in found)


def test_runs_lie_in_the_database_and_no_secret_on_the_disk(first, postgres):
    machine, _ = first
    assert not machine.files("*.db"), "no SQLite file of Dagster or MLflow"
    for path in machine.files("*"):
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert postgres.PASSWORD.encode() not in content, path
        assert postgres.url("dagster").encode() not in content, path


def test_another_machine_finds_everything_fresh_and_fetches_nothing_it_does_not_read(
    first, s3_server, postgres, tmp_path
):
    _, made = first
    second = Machine(tmp_path, s3_server, postgres)
    said = second.run(str(BIN / "ehr"), "status")
    for asset in made:
        (line,) = (line for line in said.splitlines() if line.split()[:1] == [asset])
        assert line.split()[1] == "fresh", line
    assert {p.name for p in second.files("*") if "datasets" in p.parts} == {MANIFEST_NAME}
    path = Path(second.run(str(BIN / "ehr"), "show", WANTED, "--path").strip())
    assert path.is_relative_to(tmp_path)
    assert any(p.suffix == ".arrow" for p in path.rglob("*"))
    assert not any("meds_events" in str(p) and p.suffix == ".parquet" for p in second.files("*"))


def test_what_was_altered_in_the_bucket_is_made_again_with_the_same_content(
    first, s3_server, postgres, tmp_path
):
    _, made = first
    client = s3_server.client()
    key = next(k for k in objects(s3_server) if WANTED in k and k.endswith(".arrow"))
    body = bytearray(client.get_object(Bucket="team", Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    client.put_object(Bucket="team", Key=key, Body=bytes(body))
    again = Machine(tmp_path, s3_server, postgres).bring_up_to_date()
    assert {asset: version for asset, (_, version, _) in again.items()} == {
        asset: version for asset, (_, version, _) in made.items()
    }
    assert [asset for asset, (_, _, remade) in again.items() if remade] == [WANTED]
