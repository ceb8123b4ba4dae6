"""The methods on a page: what they are called, which group they stand in, how they are drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ehr_assets.reports.inputs import BASELINE, ORACLE, Inputs, RecipeInputs

Kind = Literal["baseline", "control", "recipe", "oracle"]

NAMES = {
    "logistic": "Logistic regression",
    "random_forest": "Random forest",
    "xgboost": "XGBoost",
    "cox": "Cox model",
    "ridge": "Ridge regression",
    "bag_of_codes": "Bag of codes",
    "untrained": "Untrained encoder",
}
CONTROLS = ("bag_of_codes", "untrained")
"""What a representation must do better than, whatever the baselines do: codes without time, weights
without training.
"""

RECIPE_COLOURS = ("#0072B2", "#CC79A7", "#56B4E9", "#009E73", "#E69F00", "#000000")
RECIPE_MARKERS = ("o", "^", "v", "P", "X", "<")
BASELINE_COLOURS = ("#D55E00", "#8c4a1a", "#b7896b", "#f0a06b")
BASELINE_MARKERS = ("s", "p", "h", "d")
CONTROL_COLOUR, ORACLE_COLOUR = "#9aa3ab", "#5b6770"


@dataclass(frozen=True)
class Method:
    """One method. group: the heading it stands under in the paper's tables."""

    key: str
    label: str
    kind: Kind
    group: str

    @property
    def competes(self) -> bool:
        """The oracle is told what no record holds: it is a ceiling, never the best."""
        return self.kind != "oracle"


def methods_of(inputs: Inputs, keys: Iterable[str]) -> list[Method]:
    """The methods with these keys, as the paper lists them: baselines, controls, recipes by backbone, the
    ceiling.
    """
    recipes = {r.name: r for r in inputs.recipes}
    found = [_method(key, inputs, recipes) for key in dict.fromkeys(keys)]
    order = {name: i for i, name in enumerate(recipes)}
    kinds = ("baseline", "control", "recipe", "oracle")
    labels = list(NAMES.values())

    def place(m: Method) -> tuple:
        known = labels.index(m.label) if m.label in labels else len(labels)
        return kinds.index(m.kind), order.get(m.key.split("/")[0], 0), known, m.key

    return sorted(found, key=place)


def reference(inputs: Inputs) -> str:
    """The key of the baseline that stands beside the recipes where there is not room for all."""
    return f"{BASELINE}/{inputs.spec.promotion.baseline.method}"


def main_methods(inputs: Inputs, methods: Sequence[Method]) -> list[Method]:
    """The recipes, the baseline they are held against, and the ceiling."""
    shown = [m for m in methods if m.kind == "recipe" or m.key == reference(inputs)]
    return [*sorted(shown, key=lambda m: m.kind != "recipe"), *(m for m in methods if m.kind == "oracle")]


def _method(key: str, inputs: Inputs, recipes: Mapping[str, RecipeInputs]) -> Method:
    recipe, _, probe = key.partition("/")
    if recipe in recipes:
        more = f", {NAMES.get(probe, probe.replace('_', ' '))}" if probe else ""
        return Method(key, inputs.spec.label(recipe) + more, "recipe", backbone(recipes[recipe].settings))
    if recipe == ORACLE:
        return Method(key, "Oracle ceiling", "oracle", "Ceiling")
    if recipe != BASELINE or probe in CONTROLS:
        name = probe if probe in CONTROLS else recipe
        return Method(key, NAMES.get(name, name.replace("_", " ")), "control", "Controls")
    return Method(key, NAMES.get(probe, probe.replace("_", " ")), "baseline", "Baselines")


def backbone(settings: Mapping[str, Any]) -> str:
    """What the encoder is built on, from a recipe's settings: a pretrained model's name, or the size of
    one.
    """
    found = settings.get("backbone", {})
    if path := found.get("path"):
        return str(path).rstrip("/").split("/")[-1]
    if not found.get("architecture"):
        return "Probes on S(t)"
    size = f"{found['num_hidden_layers']} × {found['hidden_size']}"
    return f"{str(found['architecture']).capitalize()}, {size}, from random weights"


def looks(methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """Colour and marker per method key: Okabe and Ito's, safe for colour-blind readers, and a marker each."""
    out: dict[str, dict[str, Any]] = {}
    of_kind: dict[str, int] = {}
    for method in methods:
        i = of_kind[method.kind] = of_kind.get(method.kind, -1) + 1
        if method.kind == "recipe":
            out[method.key] = {"color": RECIPE_COLOURS[i % 6], "marker": RECIPE_MARKERS[i % 6], "ms": 6}
        elif method.kind == "baseline":
            i = 0 if method.key.endswith("/xgboost") else 1 + i % 3
            out[method.key] = {"color": BASELINE_COLOURS[i], "marker": BASELINE_MARKERS[i], "ms": 5}
        elif method.kind == "control":
            out[method.key] = {"color": CONTROL_COLOUR, "marker": ("*", "8")[i % 2], "ms": 6}
        else:
            out[method.key] = {"color": ORACLE_COLOUR, "marker": "D", "ms": 5, "mfc": "white", "mew": 1.4}
    return out
