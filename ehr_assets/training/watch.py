"""Watching a training run, on rank 0: what is said of it while it goes on, and its clock readings.

The figures themselves come from `loop.py`; where they go is `sinks.py`.
"""

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ehr_assets.training.estimate import flops_per_token, peak_flops, shape_of
from ehr_assets.training.history import Row, read_history
from ehr_assets.training.hooks import Hooks
from ehr_assets.training.job import Tracking
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.sinks import Files, Log, Mlflow, losses_said, metrics_of, target_said
from ehr_assets.training.start import bf16


class Watch(Hooks):
    """Where rank 0 tells what is happening; on other ranks (`active` false) it is silent.

    Deterministic facts go to `history.jsonl` and to MLflow, all of them. Every `every` steps there is a line
    in the log, a clock reading in `timing.jsonl` and MLflow, and MLflow is sent what waits for it.

    Args:
        folder: where those files lie; lines are appended.
        log: of the run.
        tracking: the MLflow run to tell.
    """

    def __init__(self, folder: Path, log: Log, tracking: Tracking | None, every: int, active: bool) -> None:
        self._folder, self._every, self._active = folder, every, active
        self._files, self._log = Files(folder), log
        self._mlflow = Mlflow(tracking, self.say) if tracking and active else None
        self._flops: Mapping[str, float] = {}
        self._peak: float | None = None
        self._began = self._marked = self._stepped = time.perf_counter()
        self._tokens_marked = self._tokens_before = 0

    def begin(self, recipe: RecipeSpec, config: Mapping[str, Any], world: int) -> None:
        """Before the first step: what the model costs, for the MFU.

        That is known for backbones of `estimate.FAMILIES`, and what devices can do, for bf16 on those of
        `estimate.PEAKS`.

        Args:
            config: the backbone's, with its vocabulary grown.
            world: processes, each with a device of its own.
        """
        shape = shape_of(config)
        self._flops = flops_per_token(recipe, shape) if shape else {}
        peak = (
            peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() and bf16(recipe) else None
        )
        self._peak = peak * world if peak else None

    def take_up(self) -> None:
        """Instead of beginning anew: the history that lies in the folder is told to MLflow once more."""
        rows = read_history(self._folder) if self._active else []
        self._tokens_marked = self._tokens_before = max((row.get("tokens", 0) for row in rows), default=0)
        if self._mlflow:
            for row in rows:
                self._mlflow.add(row["step"], metrics_of(row))
            self._mlflow.send()
        self._marked = self._stepped = time.perf_counter()

    def say(self, text: str) -> None:
        """One line in the run's log."""
        if self._active:
            self._log.say(text)

    def on_step(self, row: Row, i: int, steps: int) -> None:
        """After optimizer step `i` of the phase's `steps`: `row` as it goes to `history.jsonl`."""
        if not self._active:
            return
        self._fact(row)
        if i % self._every == 0 or i in (1, steps):
            self._say_step(row, i, steps)
        self._stepped = time.perf_counter()

    def _say_step(self, row: Row, i: int, steps: int) -> None:
        clock = self._clock(row["phase"], row["tokens"])
        self._files.clock({"step": row["step"], **clock})
        self._tell(row["step"], clock)
        mfu = f", MFU {clock['mfu']:.0%}" if "mfu" in clock else ""
        self.say(
            f"{row['phase']}: step {i}/{steps} ({i / steps:.0%}), "
            f"loss {row['loss']:.4f}{losses_said(row['losses'])}, learning rate {row['lr']:.2e}, "
            f"{clock['tokens_per_s']:,.0f} tokens/s{mfu}, "
            f"{clock.get('gpu_mb', clock['rss_mb']):,.0f} MB"
        )

    def on_tuning(self, row: Row) -> None:
        """A tuning pass: `row` as it goes to `history.jsonl`."""
        if not self._active:
            return
        self._fact(row)
        self._tell(row["step"], {})
        self.say(
            f"{row['phase']}: tuning loss {row['tuning_loss']:.4f}{losses_said(row['losses'])} "
            f"after step {row['step']}{target_said(row.get('target'))}"
        )
        # The tuning pass is not training time; what was trained since the last reading still is.
        now = time.perf_counter()
        self._marked, self._stepped = self._marked + now - self._stepped, now

    def finish(self, stats: dict[str, Any], tokens: int) -> None:
        """Reports the end of the run to whoever launched it: `{"stats": …, "timing": …}`."""
        if not self._active:
            return
        seconds = time.perf_counter() - self._began
        speed = (tokens - self._tokens_before) / seconds
        memory = memory_mb()
        timing = {"seconds": round(seconds, 3), "tokens_per_s": round(speed, 1)}
        timing["peak_memory_mb"] = memory.get("gpu_mb", memory["rss_mb"])
        self._files.clock({**timing, **memory})
        if self._mlflow:
            self._mlflow.send(last=True)
        self._log.report({"stats": stats, "timing": timing})

    def _fact(self, row: Row) -> None:
        self._files.fact(row)
        if self._mlflow:
            self._mlflow.add(row["step"], metrics_of(row))

    def _clock(self, phase: str, tokens: int) -> dict[str, float]:
        now = time.perf_counter()
        speed = (tokens - self._tokens_marked) / max(now - self._marked, 1e-9)
        self._marked, self._tokens_marked = now, tokens
        clock = {"seconds": round(now - self._began, 3), "tokens_per_s": round(speed, 1)}
        if self._peak and phase in self._flops:
            clock["mfu"] = round(speed * self._flops[phase] / self._peak, 4)
        return {**clock, **memory_mb()}

    def _tell(self, step: int, clock: Mapping[str, float]) -> None:
        if self._mlflow:
            self._mlflow.add(step, {f"speed/{k}": clock.get(k) for k in ("tokens_per_s", "mfu")})
            self._mlflow.add(step, {f"memory/{k}": clock.get(k) for k in ("rss_mb", "gpu_mb")})
            self._mlflow.send()


def memory_mb() -> dict[str, float]:
    """The most that this process has held so far: resident memory and, where there is one, of the GPU's."""
    unit = 1024 if sys.platform == "linux" else 1024**2
    found = {"rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    if torch.cuda.is_available():
        found["gpu_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found
