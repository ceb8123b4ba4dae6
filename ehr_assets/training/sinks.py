"""Where the figures of a running training go, one small class each: files, the run's log, MLflow.

Only dagster_pipes is used of Dagster, which is a small package of its own: a rank needs no dagster.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

from ehr_assets.training.history import HISTORY, TIMING, Row, write_rows
from ehr_assets.training.job import Tracking

Say = Callable[[str], None]
MOST_METRICS = 1000
"""MLflow takes so many metrics in one request (`mlflow/utils/validation.py`)."""
MOST_WAITING = 100_000
"""Metrics that are held back for a tracking server that does not answer; then the oldest go."""
MOST_PAUSE = 64


class Files:
    """`history.jsonl` and `timing.jsonl` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fact(self, row: Row) -> None:
        write_rows(self._folder / HISTORY, [row])

    def clock(self, row: Row) -> None:
        write_rows(self._folder / TIMING, [row])


class Log:
    """Lines in the run's log: Dagster's where a Dagster run launched this process, else standard output."""

    def __init__(self, pipes: PipesContext | None) -> None:
        self._pipes = pipes

    def say(self, text: str) -> None:
        if self._pipes:
            self._pipes.log.info(text)
        else:
            print(text, flush=True)

    def report(self, message: Mapping[str, Any]) -> None:
        """The last word to whoever launched this process."""
        if self._pipes:
            self._pipes.report_custom_message(dict(message))


class Mlflow:
    """Metrics on their way to an open MLflow run. A tracking server that fails must not end a training.

    What it does not take waits for the next time, and there are ever fewer of those while it does not answer.
    """

    def __init__(self, tracking: Tracking, say: Say) -> None:
        # A server that hangs would otherwise hold the training for minutes at every line of its log.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking.uri, registry_uri=tracking.uri)
        self._run_id, self._say = tracking.run_id, say
        self._waiting: list[Any] = []
        self._pause = self._failures = 0

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Values at a step; those that are None are left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(k, float(v), now, step) for k, v in values.items() if v is not None]
        del self._waiting[:-MOST_WAITING]

    def send(self, *, last: bool = False) -> None:
        """Sends what waits; `last`: whether or not it was refused before."""
        if self._pause and not last:
            self._pause -= 1
            return
        try:
            while self._waiting:
                self._client.log_batch(self._run_id, metrics=self._waiting[:MOST_METRICS])
                del self._waiting[:MOST_METRICS]
            self._failures = 0
        except Exception as e:
            self._failures += 1
            self._pause = min(2**self._failures, MOST_PAUSE)
            lost = "they are lost" if last else "training goes on, they are kept for later"
            self._say(f"MLflow did not take {len(self._waiting)} metrics ({type(e).__name__}); {lost}.")


def metrics_of(row: Row) -> dict[str, float | None]:
    """A line of the history as MLflow's metrics: `train/…`, or `tuning/…` and `target/…`."""
    kind = "tuning" if "tuning_loss" in row else "train"
    found: dict[str, float | None] = {f"{kind}/loss": row.get("tuning_loss", row.get("loss"))}
    found |= {f"{kind}/{name}": value for name, value in row.get("losses", {}).items()}
    found |= {f"target/{name}": value for name, value in row.get("target", {}).items()}
    return found | {f"train/{name}": row[name] for name in ("lr", "grad_norm") if name in row}


def losses_said(losses: Mapping[str, float]) -> str:
    """ " (sft 2.1, jepa 0.3)"; nothing where there is one objective, whose loss is said already."""
    return f" ({', '.join(f'{k} {v:.4f}' for k, v in losses.items())})" if len(losses) > 1 else ""


def target_said(target: Mapping[str, float] | None) -> str:
    """The target encoder's state in a few words; nothing where there is none."""
    if not target:
        return ""
    said: Sequence[tuple[str, str]] = (("std", ".3g"), ("effective_rank", ".1f"), ("cosine", ".4f"))
    return "; target encoder: " + ", ".join(f"{k.replace('_', ' ')} {target[k]:{f}}" for k, f in said)


@contextlib.contextmanager
def pipes_if_launched_by_dagster() -> Iterator[PipesContext | None]:
    """The Pipes session, when a Dagster run opened one for this process; otherwise None."""
    if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
        with open_dagster_pipes() as pipes:
            yield pipes
    else:
        yield None
