"""Recipes: what is accepted, what is refused and how it is said."""

import subprocess
import sys

import pytest
import yaml
from training_helpers import recipe_data

from ehr_assets.errors import SpecError
from ehr_assets.training.recipe import NOT_TRAINING, RECIPES, RecipeSpec, load_recipe
from ehr_assets.training.recipe_parts import EngineSpec


def write(folder, name, data):
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_shipped_recipes_load():
    loaded = {file.stem: load_recipe(file) for file in RECIPES.glob("*.yaml")}
    assert {"smb_sft_demo", "smb_sft_mimic_demo"} <= set(loaded)
    assert all(recipe.name == name for name, recipe in loaded.items())
    demo, mimic = loaded["smb_sft_demo"], loaded["smb_sft_mimic_demo"]
    assert mimic.backbone == demo.backbone
    assert mimic.corpus == "mimic_iv_tagged"


def test_a_recipe_can_be_named_instead_of_given_as_a_file():
    assert load_recipe("smb_sft_demo") == load_recipe(RECIPES / "smb_sft_demo.yaml")


def test_overrides_win_and_reach_deep():
    recipe = load_recipe("smb_sft_mimic_demo", {"engine.num_processes": 2, "optimizer.lr": 0.5})
    assert (recipe.engine.num_processes, recipe.optimizer.lr) == (2, 0.5)


def test_extends_merges_key_by_key_through_several_files(tmp_path):
    write(tmp_path, "a", recipe_data(name="a"))
    write(tmp_path, "b", {"extends": "a", "name": "b", "optimizer": {"clip": 0.5}})
    last = write(tmp_path, "c", {"extends": "b", "name": "c", "optimizer": {"weight_decay": 0.0}})
    recipe = load_recipe(last)
    assert (recipe.optimizer.lr, recipe.optimizer.clip, recipe.optimizer.weight_decay) == (1e-2, 0.5, 0.0)
    assert recipe.backbone == load_recipe(tmp_path / "a.yaml").backbone


def test_a_backbone_of_another_kind_replaces_the_parents(tmp_path):
    write(tmp_path, "a", recipe_data(name="a"))
    file = write(tmp_path, "b", {"extends": "a", "backbone": {"kind": "pretrained", "path": "x/y"}})
    assert load_recipe(file).backbone.model_dump() == {"kind": "pretrained", "path": "x/y", "licence": None}


def test_search_folders_serve_extends(tmp_path):
    write(tmp_path, "mine", {"extends": "smb_sft_demo", "name": "mine", "seed": 9})
    assert load_recipe(tmp_path / "mine.yaml").seed == 9
    with pytest.raises(SpecError, match="there is no recipe 'smb_sft_demo'"):
        load_recipe(tmp_path / "mine.yaml", search=[])


def test_circles_and_unknown_parents_are_named(tmp_path):
    write(tmp_path, "one", {"extends": "two"})
    write(tmp_path, "two", {"extends": "one"})
    with pytest.raises(SpecError, match="circle: one extends two extends one"):
        load_recipe(tmp_path / "one.yaml")
    file = write(tmp_path, "x", {"extends": "smb_sft_dem"})
    with pytest.raises(SpecError, match=r"no recipe 'smb_sft_dem'\. Did you mean 'smb_sft_demo'\?"):
        load_recipe(file)


SFT = {"name": "p", "objectives": {"sft": 1}, "epochs": 1}
JEPA = {"name": "j", "objectives": {"sft": 1, "jepa": 1}, "epochs": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimiser": {}}, "optimiser: unknown key. Did you mean 'optimizer'?"),
        ({"optimizer": {"lr": 1e-3, "warm_up": 1}}, "optimizer.warm_up: unknown key"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr"),
        ({"phases": []}, "phases"),
        ({"phases": [{"name": "p", "objectives": {"sftt": 1}, "epochs": 1}]}, "Did you mean 'sft'?"),
        (
            {"phases": [{"name": "p", "objectives": {"sft": 0}, "epochs": 1}]},
            "1 problem.s. in this spec:\n    phases.0.objectives: all weights are zero",
        ),
        ({"phases": [{"name": "p", "objectives": {"sft": -1}, "epochs": 1}]}, "phases.0.objectives.sft"),
        ({"phases": [{"name": "p", "objectives": {"sft": 1}}]}, "exactly one of epochs and steps"),
        (
            {"phases": [{"name": "p", "objectives": {"sft": 1}, "epochs": 1, "steps": 1}]},
            "exactly one of epochs and steps",
        ),
        ({"phases": [{"name": "p", "objectives": {"sft": 1}, "epochs": 1}] * 2}, "same name"),
        ({"adapter": {"trainable_tokens": "delimiters"}}, "random token embeddings"),
        ({"data": {"max_tokens": 256}}, r"data.max_tokens \(256\) is longer than"),
        ({"embedding": {"max_tokens": 4096}}, r"embedding.max_tokens \(4096\) is longer than"),
        ({"data": {"max_tokens": 64, "continuation_fraction": [0.5, 0.1]}}, "low <= high"),
        ({"data": {"max_tokens": 64, "min_context_tokens": 60}}, "does not fit"),
        ({"backbone": {**recipe_data()["backbone"], "num_attention_heads": 3}}, "multiple of num_attention"),
        ({"backbone": {"kind": "cofnig"}}, "backbone"),
        ({"backbone": {"kind": "pretrained", "path": "x", "seed": 1}}, "seed: unknown key"),
        ({"continues": "made_up"}, "cannot continue itself"),
        ({"engine": {"zero_stage": 4}}, "engine.zero_stage"),
        ({"name": "Bad Name"}, "name"),
        ({"seeds": [1, 2, 1]}, "seeds: a seed is listed twice"),
        ({"seeds": [1]}, "seeds"),
        ({"phases": [JEPA]}, "jepa: a phase weighs this objective"),
        ({"jepa": {}}, "no phase weighs this objective"),
        ({"phases": [JEPA], "jepa": {"mask_ratio": 0}}, "jepa.mask_ratio"),
        ({"phases": [JEPA], "jepa": {"mask_ratio": 1.5}}, "jepa.mask_ratio"),
        ({"phases": [JEPA], "jepa": {"momentum": 1}}, "jepa.momentum"),
        ({"phases": [JEPA], "jepa": {"predictor": {"heads": 3}}}, "3 heads cannot share a bottleneck of 32"),
        ({"phases": [{**JEPA, "trains": []}], "jepa": {}}, "phases.0.trains"),
        ({"phases": [{**SFT, "trains": ["predictor"]}]}, "there is no 'predictor' in this recipe"),
        ({"phases": [{**SFT, "trains": ["predictor"]}, JEPA], "jepa": {}}, "the predictor learns nothing"),
        ({"adapter": {"kind": "full"}, "phases": [{**SFT, "trains": ["tokens"]}]}, "there is no 'tokens'"),
        ({"data": {"max_tokens": 64, "cuts": {"nodes": 0.5, "boundaries": 0.6}}}, "together they must be 1"),
        ({"batch": 3, "engine": {"num_processes": 2}}, "batch .3. is not a multiple of the 2 processes"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_key(tmp_path, changes, said):
    file = write(tmp_path, "r", recipe_data(**changes))
    with pytest.raises(SpecError, match=said) as error:
        load_recipe(file)
    assert str(file) in str(error.value)


def test_only_what_trains_is_in_the_training_hash():
    base = RecipeSpec.model_validate(recipe_data())
    probe = RecipeSpec.model_validate(recipe_data(probe={"bootstrap": 7}, title="Another"))
    seed = RecipeSpec.model_validate(recipe_data(seed=2))
    assert base.training_hash() == probe.training_hash() != seed.training_hash()
    assert not set(NOT_TRAINING) & set(base.training_settings())


def test_every_seed_is_a_recipe_that_draws_all_anew():
    base = RecipeSpec.model_validate(recipe_data(seeds=[4, 5]))
    assert base.by_seed().keys() == {"seed4", "seed5"}
    five = base.by_seed()["seed5"]
    assert (five.name, five.seed, five.backbone.seed, five.seeds) == ("made_up_seed5", 5, 5, None)
    assert RecipeSpec.model_validate(five.model_dump()) == five
    # So that one more seed trains no other again.
    assert base.training_hash() == RecipeSpec.model_validate(recipe_data(seeds=[4, 5, 6])).training_hash()


def test_the_machine_is_not_in_the_training_hash_but_precision_is():
    def hash_of(**engine) -> str:
        return RecipeSpec.model_validate(recipe_data(engine=engine)).training_hash()

    assert hash_of() == hash_of(num_processes=2, micro_batch=2, zero_stage=3, gradient_checkpointing=True)
    assert hash_of() != hash_of(precision="bf16")


@pytest.mark.parametrize(
    ("batch", "processes", "micro", "shared"),
    [(8, 1, 8, (8, 1)), (8, 2, 8, (4, 1)), (12, 1, 8, (6, 2)), (104, 8, 13, (13, 1)), (7, 1, 4, (1, 7))],
)
def test_how_processes_share_a_batch(batch, processes, micro, shared):
    spec = EngineSpec(micro_batch=micro)
    assert spec.shared(batch, processes) == shared
    assert shared[0] * shared[1] * processes == batch


def test_reading_recipes_imports_nothing_heavy():
    code = (
        "import sys; from ehr_assets.training.recipe import load_recipe; load_recipe('smb_sft_demo');"
        "print([m for m in ('torch', 'transformers', 'numpy', 'polars', 'dagster') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
