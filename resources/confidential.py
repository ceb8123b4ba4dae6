"""What is put around every asset, check and op of a project: no secret comes in, no value goes out with an
error, and what may pass is tried again (`retries.py`; a check reads storage, too).

In one place, and not at each definition: one that was forgotten would be found by its leak. Sensors and
schedules, which are few and are given no config, have `values_withheld` on their functions.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from dagster import AssetsDefinition, DagsterRun, Failure, JobDefinition, OpDefinition
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction
from dagster._core.definitions.node_definition import NodeDefinition

from ehr_assets.credentials import refuse_secrets
from ehr_assets.errors import SpecError
from ehr_assets.withheld import values_withheld
from resources.retries import failing_clearly


def keep_confidential(definitions: Iterable[AssetsDefinition | JobDefinition]) -> None:
    """Puts `values_withheld`, `failing_clearly`, and a look at the run's config and tags, around what is
    computed.

    The definitions themselves are changed.
    """
    for definition in definitions:
        for op in _nodes(definition):
            if isinstance(op, OpDefinition) and isinstance(op.compute_fn, DecoratedOpFunction):
                op._compute_fn = DecoratedOpFunction(_confidential(op.compute_fn.decorated_fn))


def _nodes(definition: AssetsDefinition | JobDefinition) -> Iterable[NodeDefinition]:
    if isinstance(definition, JobDefinition):
        return definition.graph.node_defs
    return [definition.node_def] if definition.is_executable else []


def _confidential(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _guarded(args):
                yield from function(*args, **kwargs)

        return generate

    @functools.wraps(function)
    def compute(*args: Any, **kwargs: Any) -> Any:
        with _guarded(args):
            return function(*args, **kwargs)

    return compute


@contextmanager
def _guarded(args: tuple[Any, ...]) -> Iterator[None]:
    with values_withheld():
        if run := getattr(args[0], "run", None) if args else None:
            _refuse_secrets_of(run)
        with failing_clearly(args[0]) if args and hasattr(args[0], "retry_number") else nullcontext():
            yield


def _refuse_secrets_of(run: DagsterRun) -> None:
    do = (
        "Give it as an environment variable (EnvVar). Dagster has stored it with the run: withdraw the "
        f"secret, and delete the run (dagster run delete {run.run_id})."
    )
    try:
        refuse_secrets(run.run_config, "the run's config", do=do)
        refuse_secrets(run.tags, "the run's tags", do=do)
    except SpecError as e:
        raise Failure(description=str(e), allow_retries=False) from None
