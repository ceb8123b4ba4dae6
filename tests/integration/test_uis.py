"""The UIs as people meet them: `ehr ui`, an auditor and an engineer, in a browser and without one.

One installation for the file. Nothing is trained: assets are recorded as made in the Dagster instance itself.
"""

import json
import re
import signal
from urllib.parse import quote

import psutil
import pytest
from playwright.sync_api import expect, sync_playwright
from uis_support import (
    MLFLOW_READ,
    PASSWORDS,
    PATIENCE,
    Uis,
    changing_controls,
    mlflow_routes,
    mutations,
    node,
    started_uis,
)
from websockets.sync.client import connect

REFUSED = "Auditors look: nothing is changed from here."


@pytest.fixture(scope="module")
def uis(tmp_path_factory):
    with started_uis(tmp_path_factory.mktemp("uis") / "home") as started:
        yield started


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # Neither a page nor the browser itself asks anybody else.
        alone = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server"]
        args = ["--no-sandbox", *alone]
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=args)
        yield chromium
        chromium.close()


@pytest.fixture
def page_of(uis, browser):
    """A fresh browser window of somebody of a group."""
    contexts = []

    def opened(group):
        account = {"username": f"{group}-person", "password": PASSWORDS[group]}
        contexts.append(
            browser.new_context(http_credentials=account, viewport={"width": 1400, "height": 900})
        )
        contexts[-1].set_default_timeout(120_000)
        return contexts[-1].new_page()

    expect.set_options(timeout=120_000)
    yield opened
    for context in contexts:
        context.close()


def test_an_auditor_walks_from_the_report_to_the_raw_tables(uis, page_of):
    page, before = page_of("auditors"), uis.runs()
    page.goto(f"{uis.url}/audit/assets/synthetic_oncology/report")
    expect(page.get_by_role("button", name="Materialize")).to_be_disabled()
    page.get_by_role("tab", name="Lineage").click()
    for name in ("meds_events", "raw_tables"):
        node(page, name).click()
        page.wait_for_url(re.compile(f"/audit/assets/synthetic_oncology/{name}"))
        controls = changing_controls(page)
        expect(controls.first).to_be_visible()
        for control in controls.all():
            expect(control).to_be_disabled()
    page.get_by_role("tab", name="Overview").click()
    expect(page.get_by_text("Latest materialization", exact=True)).to_be_visible()
    page.get_by_role("button", name="Materialize").click(force=True)
    assert uis.runs() == before


def test_the_one_control_that_dagster_leaves_auditors_does_nothing(uis, page_of):
    page = page_of("auditors")
    page.goto(f"{uis.url}/audit/deployment/concurrency")
    page.get_by_role("button", name="Add pool limit").click()
    page.get_by_placeholder("Pool", exact=True).fill("mine")
    page.get_by_placeholder("0 - 1000").fill("1")
    with page.expect_response(lambda r: "op=SetConcurrencyLimit" in r.url) as answer:
        page.get_by_role("button", name="Add limit").click()
    assert answer.value.status == 400


def test_an_auditor_looks_at_a_training_in_mlflow_and_changes_nothing(uis, page_of):
    page = page_of("auditors")
    page.goto(f"{uis.url}/audit/mlflow/#/models/smb_sft_demo/versions/1")
    page.get_by_role("link", name="a training").click()
    expect(page.get_by_text("About this run")).to_be_visible()
    page.goto(f"{uis.url}/audit/mlflow/#/models")
    page.get_by_role("dialog").wait_for()  # an announcement
    page.keyboard.press("Escape")
    page.get_by_role("link", name="smb_sft_demo").wait_for()
    page.get_by_role("button", name="Create Model").first.click()
    page.get_by_role("dialog").locator("input").first.fill("mine")
    with page.expect_response(re.compile("registered-models/create")) as answer:
        page.get_by_role("button", name="Create", exact=True).click()
    assert answer.value.status == 403


def test_an_engineer_launches(uis, page_of):
    page = page_of("engineers")
    page.goto(f"{uis.url}/engineers/assets/synthetic_oncology/subject_splits")
    with page.expect_response(lambda r: "op=LaunchPipelineExecution" in r.url):
        page.get_by_role("button", name="Materialize").click()
    assert len(uis.runs()) == 1


def test_every_mutation_of_dagster_is_refused_to_auditors(uis):
    documents = mutations()
    assert len(documents) >= 40
    assert {"launchRun", "wipeAssets", "logTelemetry", "setNuxSeen", "reportRunlessAssetEvents"} <= set(
        documents
    )
    for name, document in documents.items():
        status, said = uis.graphql("auditors", document)
        assert (status, [e["message"] for e in said["errors"]], said["data"]) == (400, [REFUSED], None), name
    hidden = f"query Q {{ version }} {documents['setNuxSeen']}"
    assert uis.graphql("auditors", hidden, "M")[0] == 400
    assert uis.graphql("auditors", "{ version }")[0] == 200


def test_nothing_is_changed_through_the_socket_either(uis):
    def start(name, query):
        socket.send(json.dumps({"type": "start", "id": name, "payload": {"query": query}}))

    address = f"ws://127.0.0.1:{uis.port}/audit/graphql"
    with connect(
        address,
        subprotocols=["graphql-ws"],
        additional_headers=uis.authorization("auditors"),
        open_timeout=PATIENCE,
    ) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(PATIENCE))["type"] == "connection_ack"
        start("fine", "subscription { locationStateChangeEvents { event { message } } }")
        for name, query in {
            "change": "mutation { setNuxSeen }",
            "output": 'subscription { capturedLogs(logKey: ["a"]) { stdout } }',
        }.items():
            start(name, query)
            said = json.loads(socket.recv(PATIENCE))
            assert (said["id"], said["type"]) == (name, "error")
    status, said = uis.graphql("auditors", '{ capturedLogs(logKey: ["a"]) { stdout } }')
    assert (status, said["data"]) == (400, None)


def test_auditors_reach_the_routes_of_mlflow_that_read_and_no_other(uis):
    routes = mlflow_routes()
    assert len(routes) > 300
    reached = set()
    for method, path in sorted(routes):
        status, _ = uis.ask(
            "auditors", method, f"/audit/mlflow{path}", b"{}", Content_Type="application/json"
        )
        assert status != 401
        if status != 403:
            reached.add(f"{method} {re.sub('^/(ajax-)?api/', '', path)}")
    assert reached == MLFLOW_READ


def test_the_graphql_of_mlflow_has_no_mutation_that_writes():
    from mlflow.server.graphql.graphql_schema_extensions import schema

    # searches, and one that says what it is told
    assert set(schema.graphql_schema.mutation_type.fields) == {
        *("mlflowSearchDatasets", "mlflowSearchRuns", "testMutation")
    }


@pytest.mark.parametrize(
    "path",
    [
        *("/engineers/", "/engineers/graphql", "/engineers/mlflow/", "//engineers/", "/engineers/%67raphql"),
        *("/audit/../engineers/", "/audit/%2e%2e/engineers/graphql", "/audit/..%2fengineers/graphql"),
        "/audit/mlflow/../../engineers/mlflow/graphql",
    ],
)
def test_auditors_do_not_come_to_the_engineers(uis, path):
    for method in ("GET", "POST"):
        status, _ = uis.ask("auditors", method, path, b"{}", Content_Type="application/json")
        assert status in (401, 403)


@pytest.mark.parametrize(
    "path",
    [
        *("logs/a/b.err", "%6cogs/a/b.err", "x/../logs/a.out", "/logs/a.out", "notebook?path=/x.ipynb"),
        *("dagit/notebook?path=/x.ipynb", "download_debug/1", "graphql?query=%7Bversion%7D"),
        "mlflow/get-artifact?run_uuid=1&path=x",
        "mlflow/x/..%2fget-artifact?run_uuid=1&path=x",
        "mlflow/%67et-artifact",
        "mlflow/ajax-api/2.0/mlflow/runs/get%0a/../delete",
    ],
)
def test_auditors_download_nothing(uis, path):
    assert uis.ask("auditors", "GET", f"/audit/{path}")[0] == 403


def test_the_auditors_server_itself_gives_out_and_takes_in_nothing(uis):
    """Whatever stands before it: on Kubernetes that is not our nginx."""
    rules = (uis.home / "ui" / "ehr.conf").read_text()
    behind = Uis(uis.home, None, int(re.search(r":(\d+)/audit/;", rules)[1]))
    for path in ("logs/a/err", "notebook?path=/x.ipynb", "dagit/notebook?path=/x.ipynb", "download_debug/1"):
        assert behind.ask(None, "GET", f"/audit/{path}")[0] == 403
    for what in ("materialization", "check", "observation"):
        assert behind.ask(None, "POST", f"/audit/report_asset_{what}/x", "{}")[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused_to_auditors(uis, method):
    for path in ("/audit/", "/audit/report_asset_materialization/x", "/audit/mlflow/"):
        assert uis.ask("auditors", method, path)[0] in (403, 405)


@pytest.mark.parametrize("group", ["auditors", "engineers"])
def test_a_page_elsewhere_cannot_use_somebodys_account(uis, group):
    """What a link, a form or a script of another site can make a browser send, with the account it knows."""
    path = "/audit/graphql" if group == "auditors" else "/engineers/graphql"
    body, kind = json.dumps({"query": "{ version }"}), {"Content_Type": "application/json"}
    assert uis.ask(group, "POST", path, body, **kind)[0] == 200
    assert uis.ask(group, "POST", path, body, **kind, Origin=uis.url)[0] == 200
    assert uis.ask(group, "POST", f"{path}?op=Version", body, **kind, Origin=uis.url)[0] == 200
    for origin in ("https://elsewhere.example", "null", f"{uis.url}0"):
        assert uis.ask(group, "POST", path, body, **kind, Origin=origin)[0] == 403
    address = f"{path}?query={quote('mutation { setNuxSeen }')}"
    assert uis.ask(group, "GET", address)[0] == 403
    assert uis.ask(group, "POST", address, body, **kind)[0] == 403
    assert uis.ask(group, "POST", path, body, Content_Type="text/plain")[0] == 403


def test_pages_of_datasets_are_shown_and_no_other_file_is(uis):
    """What the metadata of an asset calls `dataset`, behind the path of one's group, is its page."""
    secret, version = "only for engineers", "20260101T000000000000Z-0123456789ab"
    folder = uis.home / "datasets" / "synthetic_oncology"
    for kind, page in {
        "report": "report.html",
        "meds_events": "report.html",
        "dossier": "lineage.html",
    }.items():
        (folder / kind / version).mkdir(parents=True)
        (folder / kind / version / page).write_text(secret if kind == "meds_events" else f"the {kind}")
    (folder / "report" / version / "metrics.parquet").write_text(secret)
    (folder / "report" / "linked").mkdir()
    (folder / "report" / "linked" / "report.html").symlink_to(
        folder / "meds_events" / version / "report.html"
    )
    path = "/audit/datasets/synthetic_oncology"
    for kind in ("report", "dossier"):
        assert uis.ask("auditors", "GET", f"{path}/{kind}/{version}") == (200, f"the {kind}")
        assert uis.ask(None, "GET", f"{path}/{kind}/{version}")[0] == 401
        assert uis.ask("auditors", "POST", f"{path}/{kind}/{version}")[0] == 403
    assert uis.ask("auditors", "GET", f"{path}/report/linked")[0] == 403
    assert uis.ask("auditors", "GET", f"{path}/report/gone")[0] == 404
    for other in (
        *(
            f"meds_events/{version}",
            f"report/{version}/metrics.parquet",
            f"report/{version}%2fmetrics.parquet",
        ),
        *(
            f"report/..%2fmeds_events/{version}",
            f"report/../meds_events/{version}",
            f"report/{version}/report.html",
        ),
    ):
        assert secret not in uis.ask("auditors", "GET", f"{path}/{other}")[1]


def test_nobody_comes_in_without_an_account(uis):
    for path in ("/audit/", "/audit/graphql", "/engineers/", "/engineers/graphql", "/engineers/mlflow/"):
        assert uis.ask(None, "GET", path)[0] == 401
        assert uis.ask(None, "GET", path, Authorization="Basic eDp5")[0] == 401


def test_engineers_write_to_mlflow_but_promote_through_the_asset(uis):
    kind = {"Content_Type": "application/json"}
    api = "/engineers/mlflow/ajax-api/2.0/mlflow"
    assert uis.ask("engineers", "POST", f"{api}/experiments/create", '{"name": "mine"}', **kind)[0] == 200
    alias = '{"name": "smb_sft_demo", "alias": "champion", "version": "1"}'
    assert uis.ask("engineers", "POST", f"{api}/registered-models/alias", alias, **kind)[0] == 403
    assert uis.ask("engineers", "GET", f"{api}/registered-models/get?name=smb_sft_demo")[0] == 200
    for path in ("ajax-api/3.0/mlflow/assistant/config", "gateway/x", "ajax-api/2.0/mlflow/gateway-proxy"):
        assert uis.ask("engineers", "GET", f"/engineers/mlflow/{path}")[0] == 403


def test_files_are_private_and_hold_no_password(uis):
    folder = uis.home / "ui"
    files = [p for p in folder.iterdir() if p.suffix in (".conf", ".htpasswd")]
    assert len(files) == 6
    assert {p.stat().st_mode & 0o777 for p in files} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(password in p.read_text() for p in files for password in PASSWORDS.values())


def test_an_interrupt_ends_all_of_them(uis):
    family = psutil.Process(uis.process.pid).children(recursive=True)
    assert len(family) >= 5
    uis.process.send_signal(signal.SIGINT)
    assert uis.process.wait(PATIENCE) == 0
    assert not psutil.wait_procs(family, timeout=PATIENCE)[1]
