"""No path of a spec, a manifest or a delivery of tables leads out of its root."""

import shutil

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from ehr_assets.catalog import BUILT_IN, load_catalog
from ehr_assets.cohorts.file_spec import TableFile
from ehr_assets.cohorts.files import find_files
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.corpora.spec import FolderTokenizer
from ehr_assets.errors import DatasetError, RawTableError, SpecError
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import MANIFEST_NAME, now
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.settings import Settings
from ehr_assets.specs import find_spec, read_yaml
from ehr_assets.training.recipe_parts import PretrainedBackbone

OUT = [
    "../labs",
    "a/../../labs",
    "..",
    "/etc/passwd",
    "C:/labs",
    "C:labs",
    "a\\..\\labs",
    "~/labs",
    "a//labs",
    "./labs",
    "labs/",
    "labs\0.csv",
    "labs\n",
    "",
]


@pytest.mark.parametrize("path", OUT)
def test_a_table_cannot_lie_outside_the_raw_root(path):
    with pytest.raises(ValidationError):
        TypeAdapter(TableFile).validate_python(path)


@pytest.mark.parametrize("path", ["labs", "hosp/labs", "notes/{cancer:[a-z]+}/form_*", "**/x", "labs.v2.csv"])
def test_a_table_may_lie_anywhere_below_it(path):
    assert TypeAdapter(TableFile).validate_python(path) == path


@pytest.mark.parametrize("path", [*OUT, "*.yaml", "a?.yaml", "[ab].yaml"])
def test_an_aces_file_lies_below_the_cohort_files_folder(path):
    trigger = {"name": "visit", "kind": "event", "codes": ["^VISIT$"]}
    with pytest.raises(ValidationError, match="aces"):
        NodesSpec.model_validate({"task_set": "t", "triggers": [trigger], "aces": [path]})


@pytest.mark.parametrize(
    "path", ["../model", "models/../../model", "https://host/model", "model\0", "file:///m"]
)
def test_a_model_is_a_folder_or_a_name(path):
    for spec in (PretrainedBackbone, FolderTokenizer):
        kind = "pretrained" if spec is PretrainedBackbone else "folder"
        with pytest.raises(ValidationError, match="path"):
            spec.model_validate({"kind": kind, "path": path})
        spec.model_validate({"kind": kind, "path": "/models/org--model"})


def test_what_a_spec_extends_is_a_name(tmp_path):
    (tmp_path / "out.yaml").write_text("a: 1")
    (tmp_path / "specs").mkdir()
    for name in ("../out", str(tmp_path / "out"), "x/../../out"):
        with pytest.raises(SpecError, match="there is no cohort"):
            find_spec(name, [tmp_path / "specs"], what="cohort", asked_by=tmp_path / "specs" / "own.yaml")
    assert find_spec("out", [tmp_path], what="cohort") == tmp_path / "out.yaml"


def test_an_aces_file_is_no_link_out_of_its_folder(tmp_path):
    """The embedded cohort's own file, with an ACES file that is a link."""
    cohort = read_yaml(BUILT_IN["cohorts"] / "synthetic_pe.yaml")
    folder = tmp_path / "specs" / "cohorts"
    folder.mkdir(parents=True)
    cohort["name"] = "linked"
    cohort["decision_nodes"]["aces"] = ["aces/task.yaml"]
    (folder / "linked.yaml").write_text(yaml.safe_dump(cohort))
    (tmp_path / "secret.yaml").write_text("predicates: {}")
    (folder / "aces").mkdir()
    (folder / "aces" / "task.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(SpecError, match="link leads out"):
        load_catalog(Settings(home=tmp_path / "home", spec_dirs=(tmp_path / "specs",)))


@pytest.fixture
def linked(tmp_path):
    """A raw root with links: of a file, of a folder, deep in a folder; and one that stays inside."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "deep", outside):
        folder.mkdir(parents=True)
    (outside / "part.csv").write_text("a,b\n1,2\n")
    (root / "own.csv").write_text("a,b\n1,2\n")
    (root / "file.csv").symlink_to(outside / "part.csv")
    (root / "folder").symlink_to(outside)
    (root / "deep" / "more").symlink_to(outside)
    (root / "inside.csv").symlink_to(root / "own.csv")
    return root


@pytest.mark.parametrize("file", ["file", "folder/part", "folder", "deep", "deep/*/part", "**", "f*"])
def test_a_link_out_of_the_raw_root_is_refused_unless_it_is_meant(linked, file, monkeypatch):
    with pytest.raises(RawTableError, match="leads out") as caught:
        find_files(RawRoot.of(linked), file)
    assert "EHR_RAW_LINKS=follow" in caught.value.do
    monkeypatch.setenv("EHR_RAW_LINKS", "follow")
    assert find_files(RawRoot.of(linked), file)


def test_a_link_that_stays_inside_is_followed_and_so_is_the_root_itself(linked, tmp_path):
    (tmp_path / "root_by_link").symlink_to(linked)
    for root in (linked, tmp_path / "root_by_link"):
        assert [f.path for f in find_files(RawRoot.of(root), "inside")] == ["inside.csv"]


def test_a_file_that_becomes_a_link_after_the_search_is_not_opened(linked):
    (found,) = find_files(RawRoot.of(linked), "own")
    (linked / "own.csv").unlink()
    (linked / "own.csv").symlink_to(linked.parent / "outside" / "part.csv")
    with pytest.raises(RawTableError, match="leads out"):
        found.open()


def test_a_record_cannot_lead_out_of_the_home(tmp_path):
    """What Dagster has recorded as a dataset's place, or what a manifest lists, is not believed."""
    store = DatasetStore(tmp_path / "home")
    with store.staging() as staged:
        (staged / "file").write_text("x")
        made = store.commit(staged, asset="a/b", code_version="1", started_at=now())
    shutil.copytree(made.path, tmp_path / "copy")
    for relative in ("../copy", str(tmp_path / "copy"), "datasets/../../copy"):
        with pytest.raises(DatasetError, match="not there"):
            store.open("a/b", relative)
    (tmp_path / "out").write_text("x")
    manifest = made.path / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace('"path": "file"', '"path": "../../../../../out"'))
    with pytest.raises(DatasetError, match="is missing"):
        store.open("a/b", store.relative(made))
    for name in ("../x", "/x", "a/../../x", "a[../../x]"):
        with pytest.raises(DatasetError, match="name"):
            store.directory(name)
