"""The assets of this room and their checks in Dagster: on a small cohort, with a checkpoint put in place."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from dagster import AssetExecutionContext, AssetKey, DagsterInstance, asset, materialize

from ehr_assets.build import build_project
from ehr_assets.embeddings.assets import control_embeddings_key, embedding_assets, node_embeddings_key
from ehr_assets.embeddings.checks import embedding_checks
from ehr_assets.embeddings.untrained import Untrained
from ehr_assets.settings import Settings
from ehr_assets.training.assets import checkpoint_key
from resources.points import Points
from resources.storage import Datasets

RECIPE = "smb_hybrid_demo"
OVERRIDES = {
    "cohorts/synthetic_oncology": {"source.subjects": 12},
    "corpora/synthetic_oncology_tagged": {"tokenizer.vocab_size": 600},
    f"recipes/{RECIPE}": {
        "backbone.hidden_size": 32,
        "backbone.num_hidden_layers": 2,
        "backbone.intermediate_size": 64,
        "embedding.max_tokens": 128,
        "embedding.anchor": 0.25,
        "embedding.control": True,
        "embedding.shard_subjects": 5,
    },
}
UPSTREAM = ["synthetic_oncology/decision_nodes", "synthetic_oncology_tagged/token_corpus"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The control, and embeddings of a checkpoint that holds an untrained model: all by Dagster."""
    home = tmp_path_factory.mktemp("home")
    project = build_project(Settings(home=home, overrides=OVERRIDES))
    recipe = project.catalog.recipes[RECIPE]
    corpus = project.catalog.corpora[recipe.corpus]
    points = Points.of(recipe)
    tokenizer = AssetKey([corpus.name, "tokenizer"])

    @asset(key=checkpoint_key(RECIPE), deps=[tokenizer], code_version="1")
    def checkpoint(context: AssetExecutionContext, datasets: Datasets):
        def build(step):
            folder = step.inputs[f"{corpus.name}/tokenizer"].path
            Untrained(recipe, folder).load().save_pretrained(step.out)
            for file in folder.glob("tokenizer*.json"):
                shutil.copy(file, step.out)
            return {}

        return datasets.materialize(context, build)

    graph = project.definitions.resolve_asset_graph()
    wanted = set()
    todo = [AssetKey(name.split("/")) for name in UPSTREAM]
    while todo:
        key = todo.pop()
        if key not in wanted:
            wanted.add(key)
            todo += graph.get(key).parent_keys
    definitions = [d for d in project.definitions.assets if set(d.keys) & wanted]
    made = {key for d in definitions for key in d.keys}
    checks = [c for c in project.definitions.asset_checks if {s.asset_key for s in c.check_specs} <= made]
    # The stand-in for a training has no checks of its own.
    gates = {k: v for k, v in project.gates.items() if k != f"{RECIPE}/checkpoint"}
    instance = DagsterInstance.ephemeral()

    def run(*more):
        return materialize(
            [*definitions, *checks, checkpoint, *embedding_assets(points, corpus), *more],
            instance=instance,
            resources={"datasets": Datasets(home=str(home), gates=gates)},
            raise_on_error=False,
        )

    done = run(*embedding_checks(points, corpus))
    return done, recipe


def found(ran, key: AssetKey) -> Path:
    materialized = ran[0].asset_materializations_for_node("__".join(key.path))[0]
    return Path(materialized.metadata["path"].value)


def test_embeddings_and_control_pass_their_checks(ran):
    done, _ = ran
    assert done.success
    own = [e for e in done.get_asset_check_evaluations() if e.asset_key.path[0] == RECIPE]
    passed = {(e.asset_key.path[1], e.check_name): e.passed for e in own}
    each = ["finite_and_complete", "all_usable", "windows_are_what_was_known"]
    assert passed == {
        ("node_embeddings", "same_without_the_future"): True,
        **{(part, name): True for part in ("node_embeddings", "control_embeddings") for name in each},
    }
    (recomputed,) = (e for e in own if e.check_name == "same_without_the_future")
    assert (
        0 < recomputed.metadata["max_relative_error"].value <= recomputed.metadata["tolerance"].value == 1e-4
    )
    assert recomputed.metadata["dtype"].value == "float32"


def test_an_untrained_checkpoint_and_the_control_are_the_same_states(ran):
    tables = [
        pl.read_parquet(found(ran, key(RECIPE)) / "embeddings.parquet")
        for key in (node_embeddings_key, control_embeddings_key)
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].height > 20


def test_what_was_counted_is_in_the_metadata(ran):
    materialized = ran[0].asset_materializations_for_node(f"{RECIPE}__node_embeddings")[0]
    counted = {k: v.value for k, v in materialized.metadata.items()}
    assert counted["shards"] > 1
    assert counted["tokens"] < counted["tokens_one_by_one"]
    assert (counted["not_finite"], counted["constant_dimensions"]) == (0, 0)
    assert counted["device"] in ("cpu", "cuda")


def test_a_control_belongs_to_recipes_that_say_so_and_to_no_grid(ran):
    _, recipe = ran
    plain = recipe.model_copy(update={"embedding": recipe.embedding.model_copy(update={"control": False})})
    corpus = build_project(Settings(home=Path("unused"))).catalog.corpora[recipe.corpus]

    def keys(points):
        return [k.path[-1] for d in embedding_assets(points, corpus) for k in d.keys]

    assert keys(Points.of(recipe)) == ["node_embeddings", "control_embeddings"]
    assert keys(Points.of(plain)) == ["node_embeddings"]
    assert keys(Points(recipe, {"a": recipe})) == ["node_embeddings"]
    # Whether there is a control makes no embeddings stale.
    version = {
        embedding_assets(Points.of(r), corpus)[0].code_versions_by_key[node_embeddings_key(r.name)]
        for r in (recipe, plain)
    }
    assert len(version) == 1
