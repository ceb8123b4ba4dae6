"""Every asset and check of a project, so that no error of theirs brings a value into Dagster's stores.

In one place, and not at each definition: one that was forgotten would be found by its leak.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dagster import AssetsDefinition, OpDefinition
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction

from ehr_assets.withheld import values_withheld


def withhold_values(definitions: Iterable[AssetsDefinition]) -> None:
    """Puts `values_withheld` around what assets and checks compute, in the definitions themselves."""
    for definition in definitions:
        op = definition.node_def if definition.is_executable else None
        if isinstance(op, OpDefinition) and isinstance(op.compute_fn, DecoratedOpFunction):
            op._compute_fn = DecoratedOpFunction(_withholding(op.compute_fn.decorated_fn))


def _withholding(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with values_withheld():
                yield from function(*args, **kwargs)

        return generate

    @functools.wraps(function)
    def compute(*args: Any, **kwargs: Any) -> Any:
        with values_withheld():
            return function(*args, **kwargs)

    return compute
