"""Grids: one recipe trained at several settings, side by side. Data, not code.

A grid file names a recipe and groups of points; a point is that recipe with some settings laid over. Points
with equal settings are one point, however many groups show them. Nothing heavy is imported here.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ehr_assets.errors import SpecError
from ehr_assets.specs import Spec, layered, parse_spec, read_extended
from ehr_assets.training.recipe import NAME, RecipeSpec

GRIDS = Path(__file__).parent / "grids"
MISSING = "–"
PLAIN = "plain"
"""The key of the point that has none of the settings which the columns show."""

SHARED_BY_ALL = ("name", "corpus", "continues")
"""What the points of a grid cannot differ in: they are made from the same datasets."""


class ColumnSpec(Spec):
    """Settings that tell points apart: a column of the grid's table, and a part of the points' keys.

    `settings`: dotted keys of the recipe. `form`: how their values are written, as in ``{:g}:{:g}``.
    `short`: stands before them in a key.
    """

    title: str = Field(min_length=1)
    short: str = Field(pattern=r"^[a-z]+$")
    settings: tuple[str, ...] = Field(min_length=1)
    form: str = "{}"


class GroupSpec(Spec):
    """Points that stand together: every combination of the values in `grid`, with `set` laid under them.

    Both by dotted keys of the recipe; numbers step into lists, as in ``phases.0.objectives``.
    """

    title: str = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)

    def overrides(self) -> Iterator[dict[str, Any]]:
        for values in itertools.product(*self.grid.values()):
            yield {**self.set, **dict(zip(self.grid, values, strict=True))}


class GridSpec(Spec):
    """A whole grid, with `extends` already resolved.

    `base`: the recipe. `cohort`: on which the points are compared, by their mean AUROC over its tasks. The
    first group is what the others are held against.
    """

    name: str = Field(pattern=NAME)
    title: str = Field(min_length=1)
    base: str = Field(min_length=1)
    cohort: str = Field(min_length=1)
    columns: tuple[ColumnSpec, ...] = Field(min_length=1)
    groups: tuple[GroupSpec, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Point:
    """A line of the grid's table.

    Attributes:
        group: the title of its group.
        key: names its settings; the partition.
        cells: what the columns show.
        recipe: whose name is the grid's and the key.
    """

    group: str
    key: str
    cells: tuple[str, ...]
    recipe: RecipeSpec


@dataclass(frozen=True)
class Grid:
    """A grid with its recipes made.

    Attributes:
        base: the recipe that all points differ from, under the grid's name.
        points: the lines of its table, in order; equal settings have equal keys.
    """

    spec: GridSpec
    base: RecipeSpec
    points: tuple[Point, ...]

    @property
    def recipes(self) -> dict[str, RecipeSpec]:
        """By key: what there is to train."""
        return {point.key: point.recipe for point in self.points}


def load_grid(
    path: str | Path, overrides: Mapping[str, Any] | None = None, search: tuple[Path, ...] = (GRIDS,)
) -> GridSpec:
    """Reads a grid, merges what it `extends`, applies dotted `overrides`, validates.

    Raises:
        SpecError: naming the file, the key and the reason.
    """
    merged = read_extended(Path(path), search, what="grid", layer=layered)
    return parse_spec(GridSpec, merged, str(path), overrides)


def lay_out(spec: GridSpec, base: RecipeSpec, where: str) -> Grid:
    """The grid over its base recipe.

    Args:
        where: the spec's file, for errors.

    Raises:
        SpecError: a point is no recipe or cannot be named, the columns do not tell two points apart, one
            shows nothing, or points differ in what all must share.
    """
    points: list[Point] = []
    for g, group in enumerate(spec.groups):
        for overrides in group.overrides():
            points.append(_point(spec, group, overrides, base, f"{where}, groups.{g}"))
    for i, column in enumerate(spec.columns):
        if all(point.cells[i] == MISSING for point in points):
            raise SpecError(
                f"The column '{column.title}' shows nothing: no point has {' and '.join(column.settings)}.",
                where=f"{where}, columns.{i}",
                do="Mend its settings, or take it out.",
            )
    by_key: dict[str, Point] = {}
    for point in points:
        first = by_key.setdefault(point.key, point)
        if first.recipe != point.recipe:
            raise SpecError(
                f"Points of '{first.group}' and '{point.group}' have other settings and the same key, "
                f"'{point.key}'.",
                where=f"{where}, columns",
                do="Add a column for the setting in which they differ.",
            )
    return Grid(spec, base.model_copy(update={"name": spec.name, "title": spec.title}), tuple(points))


def _point(spec: GridSpec, group: GroupSpec, overrides: dict[str, Any], base: RecipeSpec, at: str) -> Point:
    for key in overrides:
        if key.split(".")[0] in SHARED_BY_ALL:
            raise SpecError(
                f"{key}: points cannot differ in this.", where=at, do="Write a grid of its own for it."
            )
    recipe = parse_spec(RecipeSpec, base.model_dump(mode="json"), at, overrides)
    settings = recipe.model_dump(mode="json")
    found = [[_value(settings, dotted) for dotted in column.settings] for column in spec.columns]
    cells = tuple(
        MISSING if None in values else _written(column, values, at)
        for column, values in zip(spec.columns, found, strict=True)
    )
    parts = [
        column.short + "to".join(map(_short, values))
        for column, values in zip(spec.columns, found, strict=True)
        if None not in values
    ]
    key = "_".join(parts) or PLAIN
    # Nothing of the group: a point that two groups show is one.
    name = f"{spec.name}_{key.replace('.', 'p').replace('-', 'm').replace('+', '')}"
    # The key becomes folders and the name a recipe's, which is read again by the processes that train it.
    if not re.fullmatch(r"[a-z0-9._+-]+", key) or not re.fullmatch(NAME, name):
        raise SpecError(
            f"'{key}' cannot name a point.",
            where=f"{at}, columns",
            do="Show settings that are numbers or plain words, in small letters.",
        )
    own = {"name": name, "title": f"{spec.title}: {key}"}
    return Point(group.title, key, cells, recipe.model_copy(update=own))


def _short(value: Any) -> str:
    """A setting in a key; numbers with as many digits as tell them apart."""
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _value(settings: Any, dotted: str) -> Any:
    """The setting at a dotted key; None where there is none."""
    for part in dotted.split("."):
        if isinstance(settings, list):
            settings = settings[int(part)] if part.isdecimal() and int(part) < len(settings) else None
        else:
            settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _written(column: ColumnSpec, values: list[Any], at: str) -> str:
    try:
        return column.form.format(*values)
    except (ValueError, IndexError, KeyError, AttributeError) as e:
        raise SpecError(
            f"columns: the form '{column.form}' of '{column.title}' cannot write its settings: {e}.",
            where=at,
            do="Give one {} for each of its settings, with a format that fits them.",
        ) from None
