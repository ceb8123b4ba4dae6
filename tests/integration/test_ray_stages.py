"""The sharded stages on a real Ray cluster, of which a node is killed in the middle of each: same bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ONCOLOGY_TASKS
from embeddings_support import write_checkpoint
from ray_support import NODE, ray_cluster

from ehr_assets.catalog import Catalog, load_catalog
from ehr_assets.cohorts.synthetic.simulate import simulate
from ehr_assets.corpora import tokenizer
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.embeddings.extract import embed_nodes
from ehr_assets.fanout import ONE_WORKER, Cluster, Machine
from ehr_assets.meds import extract
from ehr_assets.meds.splits import write_splits
from ehr_assets.nodes import labels
from ehr_assets.nodes.triggers import find_nodes
from ehr_assets.probes.baselines import baseline_metrics
from ehr_assets.probes.compare import compare
from ehr_assets.probes.frames import CohortDirs
from ehr_assets.probes.panel_scores import Rules
from ehr_assets.progress import Progress, no_progress
from ehr_assets.settings import Settings

pytestmark = pytest.mark.slow
COHORT, CORPUS = "synthetic_oncology", "synthetic_oncology_tagged"
OVERRIDES = {
    f"cohorts/{COHORT}": {
        "shard_subjects": 6,
        "baselines.bootstrap": 20,
        "baselines.methods": ["logistic", "cox"],
    },
    "tasks/oncology": ONCOLOGY_TASKS,
}
Stage = Callable[[Path, Machine, Progress], object]


@pytest.fixture(scope="module")
def nodes():
    with ray_cluster(1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return load_catalog(Settings(home=tmp_path_factory.mktemp("unused"), overrides=OVERRIDES))


@pytest.fixture(scope="module")
def root(tmp_path_factory, catalog) -> Path:
    """What every stage reads, made in this process."""
    root = tmp_path_factory.mktemp("stages")
    cohort = catalog.cohorts[COHORT]
    for name in ("raw", "truth", "splits", "nodes"):
        (root / name).mkdir()
    simulate("oncology", root / "raw", root / "truth", subjects=60, seed=1)
    write_splits(cohort, root / "raw", root / "splits")
    return root


def of(catalog: Catalog, root: Path) -> dict[str, Stage]:
    """The stages in their order; each writes to a folder what the next ones read from `root`."""
    cohort, corpus = catalog.cohorts[COHORT], catalog.corpora[CORPUS]
    tasks = catalog.tasks_of(COHORT)
    meds, splits = {COHORT: root / "meds"}, {COHORT: root / "splits"}
    dirs = CohortDirs(root / "nodes", root / "labels", root / "splits")

    def meds_events(out, machine, progress):
        extract.extract_meds(cohort, root / "raw", root / "splits", out, progress, machine)

    def task_labels(out, machine, progress):
        at = (root / "nodes", root / "meds", out)
        labels.label_nodes(tasks, cohort.decision_nodes, *at, progress, machine)

    def fitted(out, machine, progress):
        train_tokenizer(corpus, meds, splits, out, progress, machine=machine)

    def token_corpus(out, machine, progress):
        write_corpus(corpus, meds, root / "tokenizer", out, progress, machine=machine)

    def node_embeddings(out, machine, progress):
        at = (root / "checkpoint", root / "corpus", {COHORT: root / "nodes"}, out)
        more = {"max_tokens": 64, "shard_subjects": 8, "machine": machine, "progress": progress}
        embed_nodes(*at, device="cpu", cores=1, **more)

    def bootstraps(out, machine, progress):
        spec = cohort.baselines
        baseline_metrics(COHORT, root / "meds", dirs, out, spec, machine=machine, progress=progress)

    def comparison(out, machine, progress):
        scored = {COHORT: {"baseline": [root / "baselines"]}}
        compare({COHORT: dirs}, scored, [], out, Rules(replicates=20), machine=machine, progress=progress)

    return {
        "meds": meds_events,
        "labels": task_labels,
        "tokenizer": fitted,
        "corpus": token_corpus,
        "embeddings": node_embeddings,
        "baselines": bootstraps,
        "comparison": comparison,
    }


def test_every_stage_makes_the_same_bytes_though_a_node_is_killed(
    nodes, catalog, root, tmp_path, monkeypatch
):
    monkeypatch.setattr(extract, "SMALL_BYTES", 0)
    monkeypatch.setattr(extract, "PARTS", 4)
    monkeypatch.setattr(tokenizer, "ALONE_EVENTS", 0)
    monkeypatch.setattr(labels, "_ROWS_PER_WORKER", 1)
    cluster = Machine(cluster=Cluster(nodes.address))
    for name, stage in of(catalog, root).items():
        for out in (root / name, tmp_path / name):
            out.mkdir()
        stage(root / name, ONE_WORKER, no_progress)
        lost = nodes.add_node(**NODE)
        killed = []

        def kill(phase: str, done: int, total: int, lost=lost, killed=killed) -> None:
            if done and not killed:
                nodes.remove_node(lost, allow_graceful=False)
                killed.append(phase)

        stage(tmp_path / name, cluster, kill)
        assert killed, name
        assert files(root / name) == files(tmp_path / name), name
        if name == "meds":
            find_nodes(catalog.cohorts[COHORT].decision_nodes, COHORT, root / "meds", root / "nodes")
        if name == "tokenizer":
            (root / "checkpoint").mkdir()
            write_checkpoint(root / "checkpoint", root / "tokenizer")


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
