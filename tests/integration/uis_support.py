"""Of the tests of the UIs: requests to a started `ehr ui`, and what there is to be refused."""

import base64
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess

import pytest
from conftest import BIN, Installation
from dagster import AssetKey, AssetMaterialization, DagsterInstance
from graphql import GraphQLNonNull, Undefined, get_named_type, is_composite_type, parse, validate
from mlflow import MlflowClient

from ehr_assets.settings import Settings
from jobs.instance import open_instance
from jobs.uis.accounts import set_account
from jobs.uis.servers import ui_folder

CHAIN = ("raw_tables", "subject_splits", "meds_events", "decision_nodes", "task_labels", "report")

PASSWORDS = {"auditors": "an auditor's password", "engineers": "an engineer's password"}
PATIENCE = 300  # seconds, for servers that start on a busy machine


class Uis:
    """A started `ehr ui`, and requests to it as sent: nothing tidies their paths."""

    def __init__(self, home, process, port):
        self.home, self.process, self.port = home, process, port
        self.url = f"http://127.0.0.1:{port}"

    def authorization(self, group):
        account = f"{group}-person:{PASSWORDS[group]}".encode()
        return {"Authorization": f"Basic {base64.b64encode(account).decode()}"}

    def ask(self, group, method, path, body=None, **headers):
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if group:
            sent |= self.authorization(group)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def graphql(self, group, query, operation=None, **variables):
        body = json.dumps({"query": query, "variables": variables, "operationName": operation})
        people = "audit" if group == "auditors" else "engineers"
        status, said = self.ask(group, "POST", f"/{people}/graphql", body, Content_Type="application/json")
        return status, json.loads(said)

    def runs(self):
        with DagsterInstance.from_config(str(self.home / "dagster")) as instance:
            return [run.run_id for run in instance.get_runs()]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def started_uis(home):
    """An installation in which a chain and a training are recorded as made, and its UIs."""
    settings = Settings(home)
    with pytest.MonkeyPatch.context() as patch:  # opening an instance points this process at it
        patch.setenv("EHR_HOME", str(home))
        patch.setenv("DAGSTER_HOME", str(home / "dagster"))
        with open_instance(settings) as instance:
            for name in CHAIN:
                made = AssetMaterialization(AssetKey(["synthetic_oncology", name]), metadata={"rows": 80})
                instance.report_runless_asset_event(made)
    client = MlflowClient(settings.mlflow_uri, registry_uri=settings.mlflow_uri)
    run = client.create_run(client.create_experiment("ehr-assets"), run_name="a training")
    client.create_registered_model("smb_sft_demo")
    client.create_model_version("smb_sft_demo", home.as_uri(), run.info.run_id)
    for group, password in PASSWORDS.items():
        set_account(ui_folder(settings), group, f"{group}-person", password)
    port, log = free_port(), home / "ui.log"
    command = [BIN / "ehr", "ui", "--port", str(port), "--no-daemon"]
    with log.open("wb") as out:
        env = Installation(home, {}, {}).env
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        until_said(process, log, "Auditors:")
        yield Uis(home, process, port)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()  # the kernel then ends its servers


def until_said(process, log, words):
    """Waits until the log has the words. A started process that ends instead is an error."""
    for _ in range(PATIENCE * 5):
        if words in log.read_text(errors="replace"):
            return
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(log.read_text(errors="replace"))


def node(page, name):
    """An asset in the picture of a lineage."""
    return page.locator("foreignObject").filter(has_text=re.compile(rf"\b{name}\b")).last


def changing_controls(page):
    words = re.compile("materialize|launch|wipe|delete|execute|terminate|edit|report", re.IGNORECASE)
    return page.get_by_role("button").filter(has_text=words)


def mutations():
    """A valid document for each mutation that Dagster's schema has, by its name."""
    from dagster_graphql.schema import create_schema

    schema = create_schema().graphql_schema
    documents = {}
    for name, field in schema.mutation_type.fields.items():
        needed = {
            arg: given.type
            for arg, given in field.args.items()
            if isinstance(given.type, GraphQLNonNull) and given.default_value is Undefined
        }
        declared = ", ".join(f"${arg}: {kind}" for arg, kind in needed.items())
        passed = ", ".join(f"{arg}: ${arg}" for arg in needed)
        selection = "{ __typename }" if is_composite_type(get_named_type(field.type)) else ""
        call = name + (f"({passed})" if passed else "")
        documents[name] = f"mutation M{f'({declared})' if declared else ''} {{ {call} {selection} }}"
        assert validate(schema, parse(documents[name])) == [], name
    return documents


def mlflow_routes():
    """Every method and path that MLflow's server answers to, with 1 for what varies in paths."""
    from mlflow.server import app
    from mlflow.server.fastapi_app import app as outer

    found = {(m, rule.rule) for rule in app.url_map.iter_rules() for m in rule.methods or ()}
    found |= {(m, route.path) for route in outer.routes for m in getattr(route, "methods", None) or ()}
    return {(m, re.sub(r"<[^>]+>|\{[^}]+\}", "1", path)) for m, path in found if m not in ("HEAD", "OPTIONS")}


MLFLOW_READ = {
    *("GET /", "GET /health", "GET /version", "GET /static-files/1", "POST /graphql"),
    "GET 3.0/mlflow/server-info",
    *(f"GET 2.0/mlflow/experiments/{name}" for name in ("get", "get-by-name", "search")),
    *(f"POST 2.0/mlflow/{name}" for name in ("experiments/search", "experiments/search-datasets")),
    *("GET 2.0/mlflow/runs/get", "POST 2.0/mlflow/runs/search", "POST 2.0/mlflow/logged-models/search"),
    *(f"GET 2.0/mlflow/metrics/get-history{name}" for name in ("", "-bulk", "-bulk-interval")),
    *(
        f"GET 2.0/mlflow/registered-models/{name}"
        for name in ("get", "search", "alias", "get-latest-versions")
    ),
    "POST 2.0/mlflow/registered-models/get-latest-versions",
    *("GET 2.0/mlflow/model-versions/get", "GET 2.0/mlflow/model-versions/search"),
    "GET 2.0/mlflow/logged-models/1",
}
