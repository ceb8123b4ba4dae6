"""`ehr recipe`: look at a recipe before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ehr_assets.catalog import Catalog
    from ehr_assets.training.examine import Examined
    from ehr_assets.training.grid import Grid
    from ehr_assets.training.recipe import RecipeSpec

app = typer.Typer(no_args_is_help=True, help="Recipes: check one, and see what it would train and need.")
console = Console()


@app.callback()
def recipe() -> None:
    """Recipes: check one, and see what it would train and need."""


@app.command()
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A recipe file, or the name of a recipe or grid.")
    ],
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="Print the recipe with all that it extends and takes by default."),
    ] = False,
) -> None:
    """Check a recipe without loading or starting anything; what it would train, and what that takes.

    Of a grid, every point: what is wrong with which. Ends with status 1 when something cannot be used.
    """
    from ehr_assets.training.examine import examine
    from ehr_assets.training.grid import Grid

    catalog, spec = _found(file)
    if isinstance(spec, Grid):
        if resolved:
            raise typer.BadParameter("--resolved is for a recipe; a grid has many.")
        _check_grid(catalog, spec)
        return
    found = examine(spec, catalog.corpora[spec.corpus])
    if file.endswith((".yaml", ".yml")) and Path(file).stem != spec.name:
        found.doubts.append(f"name: the file must be called {spec.name}.yaml to be found as a recipe.")
    console.rule(f"{spec.name}: {spec.title}", align="left")
    if resolved:
        import yaml

        text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        typer.echo(text, nl=False)
    _show_needs(spec, found)
    _conclude(found.doubts, found.problems)


def _check_grid(catalog: "Catalog", grid: "Grid") -> None:
    from ehr_assets.training.examine import examine

    doubts: dict[str, list[str]] = {}
    problems: dict[str, list[str]] = {}
    for key, recipe in grid.recipes.items():
        found = examine(recipe, catalog.corpora[recipe.corpus])
        for said, by_text in ((found.doubts, doubts), (found.problems, problems)):
            for text in said:
                by_text.setdefault(text, []).append(key)

    def lines(by_text: dict[str, list[str]]) -> list[str]:
        everywhere = f"all {len(grid.recipes)} points"
        named = {t: ", ".join(k) if len(k) < len(grid.recipes) else everywhere for t, k in by_text.items()}
        return [f"{keys}: {text}" for text, keys in named.items()]

    console.rule(f"{grid.spec.name}: {grid.spec.title}, {len(grid.recipes)} points", align="left")
    _conclude(lines(doubts), lines(problems))


def _conclude(doubts: list[str], problems: list[str]) -> None:
    for doubt in doubts:
        console.print(f"! {doubt}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for problem in problems:
        console.print(f"✗ {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if problems:
        console.print(f"✗ cannot be used: {len(problems)} problem(s)", style="bold red")
        raise typer.Exit(1)
    console.print(f"✓ can be used: {len(doubts)} warning(s)", style="bold green")


def _found(file: str) -> "tuple[Catalog, RecipeSpec | Grid]":
    """A recipe at a path, or a recipe or grid by name, and the catalog with it.

    Raises:
        SpecError: it, or another spec, cannot be used.
    """
    from dataclasses import replace

    from ehr_assets.catalog import BUILT_IN, check_recipe, load_catalog, unknown
    from ehr_assets.settings import Settings
    from ehr_assets.training.recipe import SHARED, load_recipe

    settings = Settings.from_env()
    catalog = load_catalog(settings)
    if file.endswith((".yaml", ".yml")) or "/" in file:
        folders = [BUILT_IN["recipes"], *(d / "recipes" for d in settings.spec_dirs)]
        spec = load_recipe(Path(file), search=[p for d in folders for p in (d, d / SHARED.name)])
        catalog = replace(catalog, recipes={**catalog.recipes, spec.name: spec})
        check_recipe(catalog, spec.name, file)
        return catalog, spec
    named = {**catalog.recipes, **catalog.grids}
    if file not in named:
        raise unknown("recipe", file, named, "ehr recipe check")
    return catalog, named[file]


def _show_needs(spec: "RecipeSpec", found: "Examined") -> None:
    """What is trained, and what a step takes."""
    from ehr_assets.training import estimate

    shape = found.shape
    if shape is None or found.vocabulary is None:
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_row("backbone", f"{shape.parameters:,} parameters, {shape.layers} layers, width {shape.hidden}")
    parts = estimate.trained(spec, shape, found.vocabulary)
    listed = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    grid.add_row("trained", f"{sum(parts.values()):,} parameters: {listed}")
    context, continuation = estimate.expected_example(spec)
    for phase in spec.phases:
        flops = spec.batch * estimate.example_flops(spec, phase, shape, context, continuation)
        weights = " + ".join(f"{weight:g} {name}" for name, weight in phase.objectives.items())
        length = f"{phase.epochs} epochs" if phase.epochs else f"{phase.steps} steps"
        grid.add_row(f"phase {phase.name}", f"{weights}, {length}; about {_si(flops)}FLOP per step")
    for bf16 in {"bf16": (True,), "fp32": (False,), "auto": (True, False)}[spec.engine.precision]:
        memory = estimate.memory_bytes(spec, shape, found.vocabulary, bf16=bf16)
        listed = ", ".join(f"{part} {_si(size)}B" for part, size in memory.items() if size)
        name = f"memory, {'bf16' if bf16 else 'fp32'}"
        grid.add_row(name, f"about {_si(sum(memory.values()))}B per process: {listed}")
    console.print(grid, highlight=False, markup=False)


def _si(value: float) -> str:
    """Three digits and a decimal prefix."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"
