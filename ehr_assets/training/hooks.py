"""Who is told what happens in the training loop. Light: whoever listens need not import the loop."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ehr_assets.training.engine import Engine
    from ehr_assets.training.loop import Progress


class Hooks:
    """Told on every process what happened. Does nothing by itself: who listens, overrides.

    Whoever only wants rank 0's words looks at the rank himself.
    """

    def on_step(self, row: dict[str, Any], i: int, steps: int) -> None:
        """After step `i` of the phase's `steps`; `row` is a line of the history."""

    def on_tuning(self, row: dict[str, Any]) -> None:
        """After a tuning pass; `row` is a line of the history."""

    def on_state(self, progress: "Progress", engine: "Engine", *, best: bool) -> None:
        """After every step and its tuning pass. `best`: its tuning loss is the last phase's best so far."""


class Everyone(Hooks):
    """Several hooks as one; what is told to the first is done when the second is told."""

    def __init__(self, *hooks: Hooks) -> None:
        self._hooks = hooks

    def on_step(self, row: dict[str, Any], i: int, steps: int) -> None:
        for hooks in self._hooks:
            hooks.on_step(row, i, steps)

    def on_tuning(self, row: dict[str, Any]) -> None:
        for hooks in self._hooks:
            hooks.on_tuning(row)

    def on_state(self, progress: "Progress", engine: "Engine", *, best: bool) -> None:
        for hooks in self._hooks:
            hooks.on_state(progress, engine, best=best)
