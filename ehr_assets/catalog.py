"""All specs together: found in the package and in `EHR_SPECS`, loaded, and checked against one another."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.corpora.spec import CorpusSpec, load_corpus
from ehr_assets.errors import SpecError
from ehr_assets.nodes.aces import AcesTask, load_aces, nodes_with, tasks_with
from ehr_assets.nodes.task_spec import TaskSet, load_task_set
from ehr_assets.paths import is_inside
from ehr_assets.reports.spec import ReportSpec, load_report
from ehr_assets.settings import Settings
from ehr_assets.specs import Spec, closest
from ehr_assets.training.grid import Grid, GridSpec, lay_out, load_grid
from ehr_assets.training.recipe import SHARED, RecipeSpec, load_recipe

PACKAGE = Path(__file__).resolve().parent
BUILT_IN = {
    "cohorts": PACKAGE / "cohorts" / "specs",
    "tasks": PACKAGE / "nodes" / "tasks",
    "corpora": PACKAGE / "corpora" / "specs",
    "recipes": PACKAGE / "training" / "recipes",
    "grids": PACKAGE / "training" / "grids",
    "reports": PACKAGE / "reports" / "specs",
}
SpecT = TypeVar("SpecT", bound=Spec)


@dataclass(frozen=True)
class Catalog:
    """Every spec by name. `aces`: cohort → what its ACES files add to its triggers and its task set."""

    cohorts: Mapping[str, CohortSpec]
    task_sets: Mapping[str, TaskSet]
    corpora: Mapping[str, CorpusSpec]
    recipes: Mapping[str, RecipeSpec]
    grids: Mapping[str, Grid]
    reports: Mapping[str, ReportSpec]
    aces: Mapping[str, Sequence[AcesTask]]

    def tasks_of(self, cohort: str) -> TaskSet | None:
        """The tasks of a cohort; None for one without decision nodes."""
        nodes = self.cohorts[cohort].decision_nodes
        return tasks_with(self.task_sets[nodes.task_set], self.aces[cohort]) if nodes else None

    def corpus_of(self, recipe: str) -> CorpusSpec:
        return self.corpora[self.recipes[recipe].corpus]

    def reports_on(self, cohort: str, recipe: str | None = None) -> list[str]:
        """The reports about this cohort, and the recipe if one is given.

        Those about this cohort alone, if there are any: others show further cohorts beside it.
        """
        found = [
            report
            for report in self.reports.values()
            if cohort in report.cohorts and (recipe is None or recipe in report.recipes)
        ]
        alone = [report for report in found if len(report.cohorts) == 1]
        return [report.name for report in alone or found]


def load_catalog(settings: Settings) -> Catalog:
    """Loads and cross-checks every spec.

    Raises:
        SpecError: a file cannot be used, a name is taken twice, or a spec names something unknown.
    """
    dirs = {kind: [BUILT_IN[kind], *(d / kind for d in settings.spec_dirs)] for kind in BUILT_IN}

    # What recipes extend that is no recipe itself lies below them, where it is not loaded as one.
    parents = [folder for d in dirs["recipes"] for folder in (d, d / SHARED.name)]

    files: dict[str, Path] = {}

    def load(kind: str, loader: Callable[..., SpecT]) -> dict[str, SpecT]:
        found: dict[str, SpecT] = {}
        for folder in dirs[kind]:
            for path in sorted(folder.glob("*.yaml")):
                spec = loader(path, settings.overrides.get(f"{kind}/{path.stem}", {}))
                name = getattr(spec, "name", path.stem)
                if name in found:
                    raise SpecError(
                        f"The name '{name}' is taken twice among {kind}.", where=str(path), do="Rename it."
                    )
                if name != path.stem:
                    raise SpecError(
                        f"The spec is named '{name}' but its file '{path.name}'.",
                        where=str(path),
                        do="Make them agree.",
                    )
                found[name], files[f"{kind}/{name}"] = spec, path
        return found

    recipes = load("recipes", lambda path, overrides: load_recipe(path, overrides, search=parents))
    grids = load("grids", lambda path, overrides: load_grid(path, overrides, search=tuple(dirs["grids"])))
    cohorts = load("cohorts", lambda path, overrides: load_cohort(path, overrides, search=dirs["cohorts"]))
    aces = {name: _aces_of(cohort, files[f"cohorts/{name}"]) for name, cohort in cohorts.items()}
    catalog = Catalog(
        cohorts={name: _with_triggers(cohort, aces[name]) for name, cohort in cohorts.items()},
        aces=aces,
        task_sets=load("tasks", load_task_set),
        corpora=load("corpora", load_corpus),
        recipes=recipes,
        grids={name: _grid(spec, recipes, files[f"grids/{name}"]) for name, spec in grids.items()},
        reports=load("reports", load_report),
    )
    _check_references(catalog, files)
    _check_overrides(catalog, settings.overrides)
    return catalog


def _aces_of(cohort: CohortSpec, file: Path) -> list[AcesTask]:
    """What the ACES files say that a cohort names; they lie where its own file does."""
    nodes = cohort.decision_nodes
    found = [file.parent / name for name in nodes.aces] if nodes else []
    for path in found:
        if not is_inside(file.parent, path):
            raise SpecError(
                "A link leads out of the cohort file's folder.",
                where=f"{file}, decision_nodes.aces: {path}",
                do="Put the ACES file itself there.",
            )
    return [load_aces(path) for path in found]


def _with_triggers(cohort: CohortSpec, found: Sequence[AcesTask]) -> CohortSpec:
    if cohort.decision_nodes is None or not found:
        return cohort
    return cohort.model_copy(update={"decision_nodes": nodes_with(cohort.decision_nodes, found)})


def _grid(spec: GridSpec, recipes: Mapping[str, RecipeSpec], file: Path) -> Grid:
    _known(f"{file}, base", "recipe", [spec.base], recipes)
    if spec.name in recipes:
        raise SpecError(f"A recipe is named '{spec.name}' too.", where=f"{file}, name", do="Rename the grid.")
    return lay_out(spec, recipes[spec.base], str(file))


def _check_references(c: Catalog, files: Mapping[str, Path]) -> None:
    for kind, names in (("recipes", c.recipes), ("grids", c.grids)):
        for name in names.keys() & c.cohorts.keys():
            raise SpecError(
                f"A cohort is named '{name}' too, and both have a `{name}/leak_audit`.",
                where=f"{files[f'{kind}/{name}']}, name",
                do="Rename one of them.",
            )
    for name, cohort in c.cohorts.items():
        file = files[f"cohorts/{name}"]
        wanted = [cohort.decision_nodes.task_set] if cohort.decision_nodes else []
        _known(f"{file}, decision_nodes.task_set", "task set", wanted, c.task_sets)
        asked = c.tasks_of(name)
        accepted = [one.task for one in cohort.accepted_features]
        _known(f"{file}, accepted_features", "task", accepted, [t.name for t in asked.tasks] if asked else [])
    for name, corpus in c.corpora.items():
        _known(f"{files[f'corpora/{name}']}, cohorts", "cohort", corpus.cohorts, c.cohorts)
    for name in c.recipes:
        check_recipe(c, name, str(files[f"recipes/{name}"]))
    for name, corpus in c.corpora.items():
        _one_deal(name, [c.cohorts[cohort] for cohort in corpus.cohorts])
    for name, grid in c.grids.items():
        covered = c.corpora[grid.base.corpus].cohorts
        file = files[f"grids/{name}"]
        _known(f"{file}, cohort", "cohort of its corpus named", [grid.spec.cohort], covered)
        for key, recipe in grid.recipes.items() if grid.base.continues else ():
            _check_continued(c, recipe, f"{file}, point {key}, continues")
    for name, report in c.reports.items():
        file = files[f"reports/{name}"]
        _known(f"{file}, recipes", "recipe", report.recipes, c.recipes)
        covered = {cohort for recipe in report.recipes for cohort in c.corpus_of(recipe).cohorts}
        _known(f"{file}, cohorts", "cohort of its recipes named", report.cohorts, covered)


def check_recipe(c: Catalog, name: str, file: str) -> None:
    """What a recipe must be to its corpus, its cohorts and the recipe that it continues."""
    recipe = c.recipes[name]
    _known(f"{file}, corpus", "corpus", [recipe.corpus], c.corpora)
    for cohort in c.corpora[recipe.corpus].cohorts:
        if c.cohorts[cohort].decision_nodes is None:
            cuts = recipe.data.cuts.nodes > 0
            raise SpecError(
                f"The cohort '{cohort}' has no decision nodes, and a recipe is evaluated at those"
                + (" (this one's records are also cut there)." if cuts else "."),
                where=f"{file}, {'data.cuts.nodes' if cuts else 'corpus'}",
                do=f"Give the cohort '{cohort}' `decision_nodes`, or train on another corpus.",
            )
    if recipe.continues is not None:
        _check_continued(c, recipe, f"{file}, continues")


def _check_continued(c: Catalog, recipe: RecipeSpec, where: str) -> None:
    """A recipe goes on from weights that it can take up: of its own backbone, adapter, vocabulary, predictor.

    Args:
        recipe: one of the catalog's, or a point of a grid over one.
    """
    chain, before = [recipe.name], recipe.continues
    _known(where, "recipe", [before or ""], c.recipes)
    while before is not None and before in c.recipes:
        chain.append(before)
        if before in chain[:-1]:
            raise SpecError(
                f"Recipes continue one another in a circle: {' continues '.join(chain)}.",
                where=where,
                do="Let one of them begin from its backbone.",
            )
        before = c.recipes[before].continues
    other = c.recipes[chain[1]]
    for key in ("corpus", "backbone", "adapter"):
        if getattr(recipe, key) != getattr(other, key):
            raise _differs(other.name, key, where)
    if other.seeds and recipe.seeds != other.seeds:
        raise _differs(other.name, "seeds", where)
    # Where one of them has no predictor, there is none to take up: it is drawn, or left behind.
    if recipe.jepa and other.jepa and recipe.jepa.predictor != other.jepa.predictor:
        raise _differs(other.name, "jepa.predictor", where)


def _differs(other: str, key: str, where: str) -> SpecError:
    return SpecError(
        f"It continues '{other}', whose {key} differs.",
        where=where,
        do=f"Give both recipes the same `{key}`.",
    )


def _one_deal(corpus: str, cohorts: Sequence[CohortSpec]) -> None:
    """A person with a declared key must fall in the same split in every cohort of a corpus."""
    keyed = {c.name: c.splits for c in cohorts if c.subjects.person_key}
    if len({splits.config_hash() for splits in keyed.values()}) > 1:
        raise SpecError(
            f"The cohorts {', '.join(keyed)} declare a person key, but deal persons into splits differently: "
            "the same person could be trained on in one and held out in the other.",
            where=f"corpus '{corpus}', cohorts",
            do="Give these cohorts the same `splits` (salt, held_out, tuning).",
        )


def _check_overrides(c: Catalog, overrides: Mapping[str, Any]) -> None:
    kinds = {
        "cohorts": c.cohorts,
        "tasks": c.task_sets,
        "corpora": c.corpora,
        "recipes": c.recipes,
        "grids": c.grids,
        "reports": c.reports,
    }
    names = [f"{kind}/{name}" for kind, specs in kinds.items() for name in specs]
    _known("environment variable EHR_OVERRIDES", "spec", overrides, names)


def _known(where: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in set(known):
            raise unknown(kind, name, known, where)


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> SpecError:
    known = sorted(known)
    return SpecError(
        f"There is no {kind} '{name}'.{closest(name, known)}",
        where=where,
        do=f"Use one of: {', '.join(known) or '(none defined)'}.",
    )
