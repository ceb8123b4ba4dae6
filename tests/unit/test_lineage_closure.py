"""The closure of a checkpoint, its dossier, its picture, and what is found when something was changed."""

import json
import re
import shutil
from xml.etree import ElementTree

import pytest
from lineage_support import MadeUp

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.closure import closure_of, located
from ehr_assets.lineage.dossier import dossier, problems, unchanging
from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.lineage.manifest import MANIFEST_NAME
from ehr_assets.lineage.page import dossier_page
from ehr_assets.lineage.picture import Box, closure_svg
from ehr_assets.lineage.verifying import differences, sealed_manifests
from ehr_assets.settings import Settings
from jobs.lineage import verify_closures
from resources.object_store import open_store


@pytest.fixture
def made(tmp_path):
    return MadeUp(tmp_path).chain()


def closure(made, asset="demo/checkpoint"):
    return closure_of(made.store, made.path(asset))


def test_a_closure_goes_back_to_the_raw_tables_and_on_to_its_own_scores(made):
    found = closure(made)
    sides = {n.asset: n.side for n in found.nodes}
    assert sides == {
        "c/raw_tables": "made_from",
        "c/subject_splits": "made_from",
        "c/meds_events": "made_from",
        "x/token_corpus": "made_from",
        "demo/checkpoint": "itself",
        "c/decision_nodes": "scores",  # only the scores were made from it
        "demo/node_embeddings": "scores",
        "demo/probe_metrics": "scores",
    }
    assert [n.asset for n in found.shown_in] == ["c/verdict"]
    order = [n.asset for n in found.nodes]
    for node in found.nodes:
        assert all(order.index(i.asset) < order.index(node.asset) for i in found.inputs(node))


def test_what_is_no_checkpoint_has_no_scores(made):
    assert [n.side for n in closure(made, "c/meds_events").nodes] == ["made_from", "made_from", "itself"]


def test_only_the_newest_scores_and_those_of_this_very_checkpoint(made):
    first = made.make("demo/checkpoint", "x/token_corpus", content="trained again")
    assert [n.side for n in closure(made).nodes if n.asset.startswith("demo/")] == ["itself"]
    made.make("demo/node_embeddings", "demo/checkpoint", "c/decision_nodes", content="one")
    made.make("demo/node_embeddings", "demo/checkpoint", "c/decision_nodes", content="two")
    states = [n for n in closure(made).nodes if n.asset == "demo/node_embeddings"]
    assert [s.data_version for s in states] == [made.made["demo/node_embeddings"].data_version]
    assert closure(made).of == ("demo/checkpoint", first.data_version)


def test_equal_scores_of_another_checkpoint_are_not_its_own(made):
    first = made.path("demo/checkpoint")
    made.make("demo/checkpoint", "x/token_corpus", content="another")
    made.make("demo/node_embeddings", "demo/checkpoint", "c/decision_nodes")  # the same states
    made.make("demo/probe_metrics", "demo/node_embeddings", content="later")
    found = closure_of(made.store, first).nodes
    assert [n.dataset for n in found if n.asset == "demo/checkpoint"] == [first]
    newest = made.made["demo/probe_metrics"].data_version
    assert newest not in {n.data_version for n in found}
    assert newest in {n.data_version for n in closure(made).nodes}


def test_a_dataset_that_is_gone_is_told_and_an_equal_one_stands_for_it(made):
    old = made.store.home / made.path("x/token_corpus")
    made.make("x/token_corpus", "c/meds_events")  # the same content
    shutil.rmtree(old)
    assert all(n.manifest for n in closure(made).nodes)
    shutil.rmtree(made.store.home / made.path("x/token_corpus"))
    found = closure(made)
    assert [n.asset for n in found.nodes if n.manifest is None] == ["x/token_corpus"]
    assert problems(dossier(made.store, found, {}, {})) == ["x/token_corpus: its dataset is gone."]
    assert "gone" in dossier_page(dossier(made.store, found, {}, {}))


def test_a_closure_on_s3_is_read_and_verified_from_an_empty_cache(s3, tmp_path):
    address = "s3://team/ehr/one"
    made = MadeUp(tmp_path, open_store(tmp_path / "a", address)).chain()
    there = open_store(tmp_path / "b", address)
    found = closure_of(there, made.path("demo/checkpoint"))
    assert [n.key for n in found.nodes] == [n.key for n in closure(made).nodes]
    d = dossier(there, found, {}, {})
    assert d["scores"]
    assert d["subjects"]
    fetched = {p.name for p in there.home.rglob("*") if p.is_file()}
    assert fetched == {MANIFEST_NAME, "metrics.parquet", "fitted_on.json", "verdict.json"}, (
        "no more than it tells"
    )
    assert differences(there, found, {}) == []
    place = f"ehr/one/{made.path('c/raw_tables')}"
    s3.client().put_object(Bucket="team", Key=f"{place}/person.csv", Body=b"id\n2\n")
    assert differences(made.store, found, {}) == ["c/raw_tables, person.csv: altered"], "not the cached one"
    s3.client().put_object(Bucket="team", Key=f"{place}/{MANIFEST_NAME}", Body=b"{}")
    assert any("on the object store" in line for line in differences(made.store, found, {}))
    s3.client().delete_object(Bucket="team", Key=f"{place}/{MANIFEST_NAME}")
    (said,) = differences(made.store, found, {})
    assert said.endswith("the dataset is gone"), "the cache still has it"
    (there.home / made.path("demo/probe_metrics") / "metrics.parquet").write_text("damaged")
    assert dossier(there, found, {}, {})["scores"] == d["scores"], "a damaged cache is fetched anew"


def test_what_a_name_stands_for(made):
    path, dataset = made.path("demo/checkpoint"), made.made["demo/checkpoint"]
    for name in ("demo/checkpoint", dataset.data_version[:10], path, str(made.store.home / path)):
        assert located(made.store, name) == path
    for name in ("demo/nothing", dataset.data_version[:4], "/etc", ".."):
        assert located(made.store, name) is None
    with pytest.raises(DatasetError, match="no committed dataset"):
        closure_of(made.store, "datasets/demo/checkpoint/never")


def passed(check, ok=True, severity="error"):
    return {
        "check": check,
        "passed": ok,
        "severity": severity,
        "time": "2026-01-01T00:00:00",
        "run_id": "run-1",
    }


def the_dossier(made):
    found = closure(made)
    by_asset = {n.asset: n.key for n in found.nodes}
    checks = {by_asset["c/meds_events"]: [passed("complete"), passed("look", False, "warn")]}
    return dossier(
        made.store, found, checks, {"c/meds_events": {"code": ["c/raw_tables: person.id"]}}, "demo/4"
    )


def test_the_dossier_tells_all_of_it(made):
    d = json.loads(json.dumps(the_dossier(made)))
    raw = made.store.home / made.path("c/raw_tables")
    files = {f["file"]: f["sha256"] for f in d["raw_files"]}
    assert files == {name: file_sha256(raw / name) for name in ("content.txt", "person.csv")}
    assert d["rows"][0]["tables"][0]["quarantined"] == 1
    assert (d["of"]["seed"], d["of"]["model"]) == (3, "demo/4")
    itself = next(s for s in d["datasets"] if s["side"] == "itself")
    assert itself["config"] == {"name": "demo", "lr": 0.1}
    assert [(s["task"], s["value"], s["n_positive"]) for s in d["scores"]] == [("death_1y", 0.71, "<11")]
    assert d["subjects"] == [
        {"asset": "demo/checkpoint", "split": "train", "n_subjects": 7, "subjects_sha256": "5" * 64}
    ]
    assert d["shown_in"][0]["reasons"] == ["Not better."]
    assert "supports audit requirements" in d["statement"]
    assert problems(d) == [], "a warning is no problem"
    itself["checks"] = [passed("good", False), {**passed("never"), "passed": None}]
    assert problems(d) == [
        "demo/checkpoint: check good failed.",
        "demo/checkpoint: check never has no result for this data version.",
    ]


def test_the_page_is_one_file_and_says_the_same(made):
    d = the_dossier(made)
    d["overrides"] = ["c/meds_events@123 used although <b>bad</b>. Reason: a look"]
    page = dossier_page(d)
    assert not re.search(r"<script|<link|<img|https?://(?!www\.w3\.org)", page)
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    for said in (*(f["sha256"] for f in d["raw_files"]), "0.710", "person.id", "Checks were passed over"):
        assert said in page, said
    assert not re.search(r"\bcompl(iant|ies)\b", page)
    assert "claims compliance with no law" in page


def test_what_the_audit_log_tells_of_it_is_in_the_dossier(made):
    log = AuditLog(made.store.home)
    for asset in ("demo/checkpoint", "other/checkpoint"):
        facts = {
            "model": asset,
            "reason": "better <than> before",
            "checkpoint": made.made[asset].data_version,
        }
        log.append("promoted", facts)
    d = the_dossier(made)
    assert [a["facts"]["model"] for a in d["acts"]] == ["demo/checkpoint"]
    assert "better &lt;than&gt; before" in dossier_page(d)


def test_equal_contents_give_an_equal_document_whatever_run_made_them(made, tmp_path):
    other = MadeUp(tmp_path / "other").chain()
    one, two = the_dossier(made), the_dossier(other)
    assert one["of"]["committed_at"] != two["of"]["committed_at"]
    assert unchanging(one) == unchanging(two)


def test_boxes_of_the_picture_stand_apart_and_edges_go_down():
    boxes = [Box("0", "c/source", "note", "made_from")]
    for n in range(1, 14):
        boxes.append(Box(str(n), f"c/asset_{n}", "note", "made_from", [str(i) for i in range(n % 3, n, 3)]))
    svg = ElementTree.fromstring(closure_svg([*boxes, Box("z", "a<b", "&", "scores", ["0", "13"], True)]))
    rects = [{k: float(v) for k, v in r.attrib.items()} for r in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(rects) == 15
    for n, a in enumerate(rects):
        for b in rects[:n]:
            apart = abs(a["x"] - b["x"]) >= a["width"] or abs(a["y"] - b["y"]) >= a["height"]
            assert apart, (a, b)
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    assert all(r["x"] >= 0 and r["x"] + r["width"] <= width and r["y"] + r["height"] <= height for r in rects)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda d: (d / "content.txt").write_text("x" * len((d / "content.txt").read_text())),
            "content.txt: altered",
        ),
        (lambda d: (d / "content.txt").unlink(), "content.txt: missing"),
        (lambda d: (d / "more.txt").write_text("x"), "more.txt: not in the manifest"),
        (lambda d: shutil.rmtree(d), "the dataset is gone"),
        (lambda d: edit_manifest(d, data_version="0" * 64), "another than was used"),
        (lambda d: edit_manifest(d, overrides=["none"]), "edited since the run"),
    ],
)
@pytest.mark.parametrize("asset", ["c/raw_tables", "x/token_corpus", "c/decision_nodes"])
def test_verify_names_the_dataset_and_the_file(made, asset, change, says):
    log = AuditLog(made.store.home)
    manifests = [
        f"{made.path(name)} {file_sha256(made.store.home / made.path(name) / MANIFEST_NAME)}"
        for name in made.made
    ]
    log.append("run_finished", {"run": "run-1", "manifests": manifests})
    sealed = sealed_manifests(log.entries())
    assert differences(made.store, closure(made), sealed) == []
    change(made.store.home / made.path(asset))
    found = differences(made.store, closure(made), sealed)
    assert found
    assert found[0].startswith(f"{asset}, ")
    assert any(says in line for line in found)


def edit_manifest(folder, **changes):
    content = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps({**content, **changes}))


def verified(made, remote="", name=None):
    return verify_closures(Settings(home=made.store.home, remote=remote), made.store, {}, name)


def log_of(made):
    log = AuditLog(made.store.home)
    files = {made.path(name): made.store.home / made.path(name) / MANIFEST_NAME for name in made.made}
    manifests = [f"{place} {file_sha256(file)}" for place, file in files.items()]
    log.append("run_finished", {"run": "run-1", "manifests": manifests})
    return log


def test_a_checkpoint_without_a_readable_manifest_does_not_go_unnoticed(made):
    log = log_of(made)
    assert (verified(made).differences, verified(made).notes) == ([], [])
    place = made.path("other/checkpoint")
    manifest = made.store.home / place / MANIFEST_NAME
    manifest.write_text("{")
    assert verified(made).differences == [f"{place}: its manifest cannot be read"]
    manifest.unlink()
    assert "it is gone" in verified(made).differences[0]
    log.append("collected", {"dataset": place})
    assert verified(made).differences == []


def test_an_audit_log_that_was_edited_vouches_for_nothing(made):
    log = log_of(made)
    log.path.write_bytes(log.path.read_bytes().replace(b'"run":"run-1"', b'"run":"run-2"'))
    assert "The audit log" in verified(made, name="demo/checkpoint").differences[0]
    shutil.rmtree(log.folder)
    found = verified(made, name="demo/checkpoint")
    assert found.differences == []
    assert "Of 8 datasets" in found.notes[0], "a log taken away is told"


def test_a_dossier_shows_no_altered_scores(made):
    file = made.store.home / made.path("demo/probe_metrics") / "metrics.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match="altered"):
        dossier(made.store, closure(made), {}, {})
