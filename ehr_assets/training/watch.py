"""Watching a training run, on rank 0: the run's log, Dagster Pipes, MLflow, and the history files.

Only dagster_pipes is used, which is a small package of its own: a rank needs no dagster.
"""

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

from ehr_assets.training.checkpoint import write_rows
from ehr_assets.training.job import Tracking


class Watch:
    """Where rank 0 tells what is happening; on other ranks (`active` false) it is silent.

    Deterministic facts go to `history.jsonl`, clock readings to `timing.jsonl`; both, thinned out to every
    `every` steps, to the log and MLflow.
    """

    def __init__(
        self, out_dir: Path, pipes: PipesContext | None, tracking: Tracking | None, every: int, active: bool
    ) -> None:
        self._out, self._pipes, self._every, self._active = out_dir, pipes, every, active
        self._mlflow = _Mlflow(tracking, self.say) if tracking else None
        self._began = self._marked = time.perf_counter()
        self._tokens_marked = 0

    def say(self, text: str) -> None:
        """One line in the run's log."""
        if not self._active:
            return
        if self._pipes:
            self._pipes.log.info(text)
        else:
            print(text, flush=True)

    def on_step(self, row: dict[str, Any], i: int, steps: int) -> None:
        """After optimizer step `i` of the phase's `steps`: `row` as it goes to `history.jsonl`."""
        if not self._active:
            return
        step, tokens = row["step"], row["tokens"]
        write_rows(self._out / "history.jsonl", [row])
        if self._mlflow:
            self._mlflow.add(
                step, loss=row["loss"], lr=row["lr"], grad_norm=row["grad_norm"], **row["losses"]
            )
        if i % self._every and i not in (1, steps):
            return
        now = time.perf_counter()
        speed = (tokens - self._tokens_marked) / max(now - self._marked, 1e-9)
        self._marked, self._tokens_marked = now, tokens
        timing = {"step": step, "seconds": round(now - self._began, 3), "tokens_per_s": round(speed, 1)}
        write_rows(self._out / "timing.jsonl", [timing])
        if self._mlflow:
            self._mlflow.add(step, tokens_per_s=speed)
            self._mlflow.send()
        self.say(
            f"{row['phase']}: step {i}/{steps} ({i / steps:.0%}), loss {row['loss']:.4f}, "
            f"learning rate {row['lr']:.2e}, {speed:,.0f} tokens/s"
        )

    def on_tuning(self, row: dict[str, Any]) -> None:
        """A tuning pass: `row` as it goes to `history.jsonl`."""
        if not self._active:
            return
        step, loss = row["step"], row["tuning_loss"]
        write_rows(self._out / "history.jsonl", [row])
        if self._mlflow:
            self._mlflow.add(step, tuning_loss=loss)
            self._mlflow.send()
        self.say(f"{row['phase']}: tuning loss {loss:.4f} after step {step}")
        self._marked = time.perf_counter()  # the tuning pass is not training time

    def on_state(self, progress: Any, engine: Any, *, best: bool) -> None:
        """Nothing to watch."""

    def finish(self, stats: dict[str, Any], tokens: int) -> None:
        """Reports the end of the run to whoever launched it: `{"stats": …, "timing": …}`."""
        seconds = time.perf_counter() - self._began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1024 if sys.platform == "linux" else 1024**2
        )
        timing = {
            "seconds": round(seconds, 3),
            "tokens_per_s": round(tokens / seconds, 1),
            "peak_memory_mb": round(peak, 1),
        }
        write_rows(self._out / "timing.jsonl", [timing])
        if self._pipes:
            self._pipes.report_custom_message({"stats": stats, "timing": timing})


@contextlib.contextmanager
def pipes_if_launched_by_dagster() -> Iterator[PipesContext | None]:
    """The Pipes session, when a Dagster run opened one for this process; otherwise None."""
    if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
        with open_dagster_pipes() as pipes:
            yield pipes
    else:
        yield None


class _Mlflow:
    """Metrics on their way to an open MLflow run. A tracking server that fails must not end a training."""

    def __init__(self, tracking: Tracking, say: Any) -> None:
        from mlflow import MlflowClient

        self._client, self._run_id, self._say = MlflowClient(tracking.uri), tracking.run_id, say
        self._waiting: list[Any] = []

    def add(self, step: int, **values: float) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]

    def send(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._client.log_batch(self._run_id, metrics=waiting)
        except Exception as e:
            self._say(f"MLflow did not take {len(waiting)} metrics ({type(e).__name__}); training goes on.")
