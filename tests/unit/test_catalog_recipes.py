"""The ready recipes and what holds them together: paper and demo size, what is continued, grids."""

import itertools

import pytest
import yaml

from ehr_assets.catalog import PACKAGE, load_catalog
from ehr_assets.errors import SpecError
from ehr_assets.settings import Settings
from ehr_assets.specs import parse_spec
from ehr_assets.training.estimate import predictor_parameters
from ehr_assets.training.recipe import RecipeSpec

PAPER = PACKAGE / "paper"

SIZE = {
    *("name", "title", "corpus", "continues", "batch"),
    *("backbone", "engine", "probe"),
    *("adapter.trainable_tokens", "data.max_tokens", "data.examples_per_subject", "tuning.examples"),
    *("optimizer.lr", "embedding.max_tokens", "phases.0.epochs", "phases.0.steps"),
}
"""What a size is: all that demo and paper versions of a recipe may differ in."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return load_catalog(Settings(home=tmp_path_factory.mktemp("home"), spec_dirs=(PAPER,)))


def flat(value, key=""):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [flat(inner, f"{key}.{name}".lstrip(".")) for name, inner in pairs]
    return {k: v for part in found for k, v in part.items()} if found else {key: value}


@pytest.mark.parametrize(
    ("objective", "mix", "size"),
    itertools.product(("sft", "hybrid", "curriculum"), ("", "_mi"), ("qwen3_8b", "llama3_8b", "qwen3_1b7")),
)
def test_demo_and_paper_recipes_differ_in_nothing_but_size(catalog, objective, mix, size):
    demo, paper = (
        flat(catalog.recipes[f"smb_{objective}{mix}_{which}"].model_dump(mode="json"))
        for which in ("demo", size)
    )
    other = {key for key in {*demo, *paper} if demo.get(key, "absent") != paper.get(key, "absent")}
    assert not {key for key in other if key not in SIZE and key.split(".")[0] not in SIZE}
    assert {"backbone.kind", "data.max_tokens", "batch"} <= other


def test_paper_size_is_table_7(catalog):
    for name in ("smb_curriculum_qwen3_8b", "smb_curriculum_mi_llama3_8b", "smb_hybrid_qwen3_1b7"):
        recipe = catalog.recipes[name]
        assert (recipe.adapter.r, recipe.adapter.alpha, recipe.adapter.dropout) == (64, 128, 0.1)
        predictor = recipe.jepa.predictor
        assert (predictor.layers, predictor.width, predictor.heads) == (2, 1.0, 8)
        assert (recipe.jepa.mask_ratio, recipe.jepa.momentum) == (0.5, 0.996)
        assert recipe.phases[0].objectives == {"sft": 1.0, "jepa": 1.0}
        assert recipe.engine.shared(recipe.batch, 8) == (13, 1)
        assert (recipe.engine.zero_stage, recipe.engine.precision) == (1, "bf16")
        assert (recipe.schedule.kind, recipe.schedule.warmup_fraction) == ("cosine", 0.03)
        assert (recipe.optimizer.betas, recipe.optimizer.weight_decay) == ((0.9, 0.95), 0.1)
        assert recipe.data.max_tokens == 3300


def test_the_mixes(catalog):
    for name, recipe in catalog.recipes.items():
        if name.startswith("smb_") and not name.endswith(("_mimic_demo", "_tcga_demo")):
            cohorts = ["synthetic_oncology", *(["synthetic_pe"] if "_mi_" in name else [])]
            assert catalog.corpus_of(name).cohorts == cohorts, name
        if "_curriculum_" in name:
            assert recipe.continues == name.replace("curriculum", "sft")


def test_every_paper_recipe_is_in_a_report(catalog):
    shown = {recipe for report in catalog.reports.values() for recipe in report.recipes}
    assert {path.stem for path in (PAPER / "recipes").glob("*.yaml")} <= shown


def test_the_predictors_of_table_7_and_of_the_text(catalog):
    """smb.yaml says which of the two has the paper's ~67 M parameters."""
    recipe = catalog.recipes["smb_hybrid_qwen3_8b"]
    mlp = parse_spec(RecipeSpec, recipe.model_dump(mode="json"), "", {"jepa.predictor.kind": "mlp"})
    assert round(predictor_parameters(recipe, 4096) / 1e6) == 436
    assert round(predictor_parameters(mlp, 4096) / 1e6) == 67


def test_paper_recipes_are_not_switched_on_by_themselves(tmp_path):
    names = load_catalog(Settings(home=tmp_path)).recipes
    assert not [name for name in names if "8b" in name or "1b7" in name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"smb_curriculum_demo": {"continues": "smb_sft_dem"}}, "no recipe 'smb_sft_dem'. Did you mean"),
        ({"smb_sft_demo": {"continues": "smb_curriculum_demo"}}, "in a circle: smb_"),
        (
            {"smb_curriculum_demo": {"continues": "smb_sft_mi_demo"}},
            "whose corpus differs",
        ),
        ({"smb_curriculum_demo": {"adapter.r": 8}}, "'smb_sft_demo', whose adapter differs"),
        ({"smb_sft_demo": {"seeds": [1, 2]}}, "'smb_sft_demo', whose seeds differs"),
        ({"smb_sft_demo": {"backbone.num_hidden_layers": 2}}, "'smb_sft_demo', whose backbone differs"),
        (
            {"smb_curriculum_demo": {"continues": "smb_hybrid_demo", "jepa.predictor.layers": 3}},
            "'smb_hybrid_demo', whose jepa.predictor differs",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused_when_definitions_load(tmp_path, changes, said):
    overrides = {f"recipes/{name}": change for name, change in changes.items()}
    with pytest.raises(SpecError) as e:
        load_catalog(Settings(home=tmp_path, overrides=overrides))
    assert said in str(e.value)
    assert ".yaml, continues" in str(e.value)


def test_a_recipe_with_the_name_of_a_cohort_is_refused(tmp_path):
    """Both have a leak audit: Dagster would say no more than that an asset key is there twice."""
    (tmp_path / "recipes").mkdir()
    named = {"name": "tcga", "title": "T", "extends": "smb_sft_demo"}
    (tmp_path / "recipes" / "tcga.yaml").write_text(yaml.safe_dump(named))
    with pytest.raises(SpecError, match=r"A cohort is named 'tcga' too[\s\S]*tcga\.yaml, name"):
        load_catalog(Settings(home=tmp_path, spec_dirs=(tmp_path,)))


def test_a_feature_is_accepted_for_a_task_that_there_is(tmp_path):
    """With a slip in the name nothing would be accepted, and nothing said of it."""
    accepted = {"features": ["CARE//COMFORT"], "because": "the order comes before the death"}
    load_catalog(taking({**accepted, "task": "mortality_90d"}, tmp_path))
    with pytest.raises(SpecError, match=r"no task 'mortality_90'[\s\S]*accepted_features"):
        load_catalog(taking({**accepted, "task": "mortality_90"}, tmp_path))


def taking(accepted, home):
    return Settings(home=home, overrides={"cohorts/synthetic_oncology": {"accepted_features": [accepted]}})


def test_a_predictor_is_taken_up_where_there_is_one(tmp_path):
    hybrid = {"recipes/smb_curriculum_demo": {"continues": "smb_hybrid_demo", "jepa.mask_ratio": 1.0}}
    assert load_catalog(Settings(home=tmp_path, overrides=hybrid))
    drawn = {"recipes/smb_curriculum_demo": {"jepa.predictor.layers": 3}}  # SFT, which it continues, has none
    assert load_catalog(Settings(home=tmp_path, overrides=drawn))


def test_cuts_at_decision_nodes_need_a_cohort_that_has_some(tmp_path):
    overrides = {"cohorts/synthetic_oncology": {"decision_nodes": None}}
    with pytest.raises(SpecError, match=r"smb_\w+\.yaml, data\.cuts\.nodes"):
        load_catalog(Settings(home=tmp_path, overrides=overrides))


def load_grids(folder, **changes):
    """The catalog with a grid of its own, over the demo's hybrid recipe."""
    spec = {"name": "g", "title": "g", "base": "smb_hybrid_demo", "cohort": "synthetic_oncology"}
    spec |= {"columns": column("jepa.mask_ratio", short="r"), "groups": [{"title": "a"}], **changes}
    (folder / "grids").mkdir()
    (folder / "grids" / f"{spec['name']}.yaml").write_text(yaml.safe_dump(spec))
    return load_catalog(Settings(home=folder, spec_dirs=(folder,)))


def column(*settings, short="x"):
    return [{"title": "x", "short": short, "settings": list(settings)}]


def named(phase):
    return {"groups": [{"title": "a", "set": {"phases.0.name": phase}}]}


def ranks(*values):
    return {"groups": [{"title": "a", "grid": {"adapter.r": list(values)}}]}


def pretrained(path):
    changes = {"backbone": {"kind": "pretrained", "path": path}, "adapter.trainable_tokens": "delimiters"}
    return {"groups": [{"title": "a", "set": changes}]}


class TestGrids:
    def test_table_6_has_sixteen_points(self, catalog):
        for name in ("smb_table6_demo", "smb_table6_qwen3_1b7"):
            grid = catalog.grids[name]
            assert len(grid.recipes) == 16
            assert len(grid.points) == 1 + 9 + 4 + 4
            assert len({recipe.training_hash() for recipe in grid.recipes.values()}) == 16
            assert len({recipe.name for recipe in grid.recipes.values()}) == 16
        assert [p.cells for p in catalog.grids["smb_table6_demo"].points][:2] == [
            ("–", "–", "–", "–"),
            ("1", "0.5h", "1:1", "1.00"),
        ]

    def test_points_have_their_settings(self, catalog):
        recipes = catalog.grids["smb_table6_demo"].recipes
        assert recipes["plain"].jepa is None
        assert recipes["plain"].phases[0].objectives == {"sft": 1.0}
        assert recipes["d4_w0.5_l1to1_r1"].jepa.predictor.layers == 4
        assert recipes["d2_w1_l2.5to1_r1"].phases[0].objectives == {"jepa": 2.5, "sft": 1.0}
        assert recipes["d2_w1_l1to1_r0.25"].jepa.mask_ratio == 0.25
        assert recipes["d2_w1_l1to1_r0.25"].jepa.predictor.width == 1.0

    @pytest.mark.parametrize(
        ("values", "keys", "names"),
        [
            ([3e-5, 1e-3], ["x3e-05", "x0.001"], ["g_x3em05", "g_x0p001"]),
            ([0.1234567, 0.1234568], ["x0.1234567", "x0.1234568"], ["g_x0p1234567", "g_x0p1234568"]),
            ([1.5e20], ["x1.5e+20"], ["g_x1p5e20"]),
        ],
    )
    def test_points_are_recipes_whatever_their_numbers_look_like(self, tmp_path, values, keys, names):
        column = {"title": "lr", "short": "x", "settings": ["optimizer.lr"], "form": "{:g}"}
        groups = [{"title": "a", "grid": {"optimizer.lr": values}}]
        recipes = load_grids(tmp_path, columns=[column], groups=groups).grids["g"].recipes
        assert list(recipes) == keys
        assert [recipe.name for recipe in recipes.values()] == names
        for recipe in recipes.values():
            assert RecipeSpec.model_validate(recipe.model_dump(mode="json")) == recipe

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"base": "smb_hybrid"}, "base"),
            ({"cohort": "synthetic_pe"}, "cohort"),
            ({"groups": [{"title": "a", "set": {"corpus": "mimic_iv_tagged"}}]}, "points cannot differ"),
            ({"groups": [{"title": "a", "grid": {"jepa.mask_ratio": [0.5, 2.0]}}]}, "jepa.mask_ratio"),
            ({"groups": [{"title": "a", "grid": {"optimizer.lr": [1e-3, 1e-4]}}]}, "Add a column"),
            ({"groups": [{"title": "a", "set": {"phases.1.epochs": 2}}]}, "steps into a list of 1"),
            ({"columns": [{"title": "r", "short": "r", "settings": ["seed"], "form": "{} {}"}]}, "form"),
            ({"columns": column("phases.0.name"), **named("a/b")}, "phases.0.name"),
            ({"columns": column("backbone.path"), **pretrained("../up")}, "without `..`"),
            ({"columns": column("backbone.path"), **pretrained("Org")}, "cannot name a point"),
            ({"columns": column("optimizer.betas")}, "'x[0.9, 0.95]' cannot name a point"),
            ({"columns": column("jepa.mask_rato")}, "shows nothing: no point has jepa.mask_rato"),
            ({"groups": [{"title": "a", "grid": {"jepa.mask_ratio": []}}]}, "groups.0.grid.jepa.mask_ratio"),
            (
                {"base": "smb_curriculum_demo", "columns": column("adapter.r"), **ranks(8, 64)},
                "g.yaml, point x8, continues",
            ),
            ({"name": "smb_hybrid_demo"}, "too"),
        ],
    )
    def test_mistakes_are_named_with_their_file(self, tmp_path, changes, said):
        with pytest.raises(SpecError) as e:
            load_grids(tmp_path, **changes)
        assert said in str(e.value)
        assert f"{changes.get('name', 'g')}.yaml" in str(e.value)
