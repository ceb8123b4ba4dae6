"""All specs together: found in the package and in `EHR_SPECS`, loaded, and checked against one another."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.corpora.spec import CorpusSpec, load_corpus
from ehr_assets.errors import SpecError
from ehr_assets.nodes.spec import TaskSet, load_task_set
from ehr_assets.reports.spec import ReportSpec, load_report
from ehr_assets.settings import Settings
from ehr_assets.specs import Spec, closest
from ehr_assets.training.recipe import SHARED, RecipeSpec, load_recipe

PACKAGE = Path(__file__).resolve().parent
BUILT_IN = {
    "cohorts": PACKAGE / "cohorts" / "specs",
    "tasks": PACKAGE / "nodes" / "tasks",
    "corpora": PACKAGE / "corpora" / "specs",
    "recipes": PACKAGE / "training" / "recipes",
    "reports": PACKAGE / "reports" / "specs",
}
SpecT = TypeVar("SpecT", bound=Spec)


@dataclass(frozen=True)
class Catalog:
    """Every spec by name."""

    cohorts: Mapping[str, CohortSpec]
    task_sets: Mapping[str, TaskSet]
    corpora: Mapping[str, CorpusSpec]
    recipes: Mapping[str, RecipeSpec]
    reports: Mapping[str, ReportSpec]

    def tasks_of(self, cohort: str) -> TaskSet | None:
        """The tasks of a cohort; None for one without decision nodes."""
        nodes = self.cohorts[cohort].decision_nodes
        return self.task_sets[nodes.task_set] if nodes else None

    def corpus_of(self, recipe: str) -> CorpusSpec:
        return self.corpora[self.recipes[recipe].corpus]

    def recipes_on(self, cohort: str) -> list[str]:
        """The recipes whose corpus is this cohort alone."""
        return [name for name in self.recipes if list(self.corpus_of(name).cohorts) == [cohort]]

    def reports_on(self, recipes: Iterable[str]) -> list[str]:
        """The reports that show any of these recipes."""
        wanted = set(recipes)
        return [name for name, report in self.reports.items() if wanted & set(report.recipes)]


def load_catalog(settings: Settings) -> Catalog:
    """Loads and cross-checks every spec.

    Raises:
        SpecError: a file cannot be used, a name is taken twice, or a spec names something unknown.
    """
    dirs = {kind: [BUILT_IN[kind], *(d / kind for d in settings.spec_dirs)] for kind in BUILT_IN}

    # What recipes extend that is no recipe itself lies below them, where it is not loaded as one.
    parents = [folder for d in dirs["recipes"] for folder in (d, d / SHARED.name)]

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
                found[name] = spec
        return found

    catalog = Catalog(
        cohorts=load("cohorts", lambda path, overrides: load_cohort(path, overrides, search=dirs["cohorts"])),
        task_sets=load("tasks", load_task_set),
        corpora=load("corpora", load_corpus),
        recipes=load("recipes", lambda path, overrides: load_recipe(path, overrides, search=parents)),
        reports=load("reports", load_report),
    )
    _check_references(catalog)
    _check_overrides(catalog, settings.overrides)
    return catalog


def _check_references(c: Catalog) -> None:
    for name, cohort in c.cohorts.items():
        wanted = [cohort.decision_nodes.task_set] if cohort.decision_nodes else []
        _known(f"cohort '{name}', decision_nodes.task_set", "task set", wanted, c.task_sets)
    for name, corpus in c.corpora.items():
        _known(f"corpus '{name}', cohorts", "cohort", corpus.cohorts, c.cohorts)
    for name, recipe in c.recipes.items():
        _known(f"recipe '{name}', corpus", "corpus", [recipe.corpus], c.corpora)
        for cohort in c.corpora[recipe.corpus].cohorts:
            if cohort in c.cohorts and c.cohorts[cohort].decision_nodes is None:
                raise SpecError(
                    f"The cohort '{cohort}' has no decision nodes, and a recipe is evaluated at those.",
                    where=f"recipe '{name}', corpus '{recipe.corpus}'",
                    do=f"Give the cohort '{cohort}' `decision_nodes`, or train on another corpus.",
                )
    for name, corpus in c.corpora.items():
        _one_deal(name, [c.cohorts[cohort] for cohort in corpus.cohorts])
    for name, report in c.reports.items():
        _known(f"report '{name}', recipes", "recipe", report.recipes, c.recipes)
        covered = {cohort for recipe in report.recipes for cohort in c.corpus_of(recipe).cohorts}
        _known(f"report '{name}', cohorts", "cohort of its recipes named", report.cohorts, covered)


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
