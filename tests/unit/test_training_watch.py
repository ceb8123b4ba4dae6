"""Watching: history, log lines, MLflow's metrics, the plot, and what a collapse looks like."""

import base64
import json
import time
from typing import Any

import pytest
import torch
from training_helpers import recipe_data

from ehr_assets.models.statistics import TargetStatistics
from ehr_assets.training import curves
from ehr_assets.training.collapse import judge_collapse
from ehr_assets.training.estimate import peak_flops
from ehr_assets.training.history import objectives, phases, points, read_history, read_rows, steps, tunings
from ehr_assets.training.job import Tracking
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.sinks import MOST_METRICS, Log, metrics_of
from ehr_assets.training.watch import Watch

HEALTHY = {"std": 1.0, "std_min": 0.5, "spread": 0.9, "effective_rank": 20.0, "possible_rank": 32.0}
HEALTHY |= {"cosine": 0.9}


def step(i: int, phase: str = "both", **more: Any) -> dict[str, Any]:
    row = {"step": i, "phase": phase, "loss": 3.0, "losses": {"sft": 2.0, "jepa": 1.0}, "grad_norm": 0.5}
    return {**row, "lr": 1e-3, "tokens": 100 * i, **more}


def tuning(i: int, target: dict[str, float] | None = None, phase: str = "both") -> dict[str, Any]:
    row = {"step": i, "phase": phase, "tuning_loss": 2.5, "losses": {"sft": 2.0, "jepa": 0.5}}
    return {**row, **({"target": target} if target else {})}


class Server:
    """In MLflow's place: takes batches of its limits, or nothing."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.calls, self.broken = 0, False

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.calls += 1
        if self.broken:
            raise ConnectionError("nobody there")
        assert 0 < len(metrics) <= MOST_METRICS
        self.taken += metrics


@pytest.fixture
def server(monkeypatch) -> Server:
    import mlflow

    made = Server()
    monkeypatch.setattr(mlflow, "MlflowClient", lambda *_, **__: made)
    return made


def watch(folder, tracked: bool = True, every: int = 2) -> Watch:
    return Watch(folder, Log(None), Tracking(uri="sqlite:///x", run_id="r") if tracked else None, every, True)


def test_a_row_goes_to_the_files_the_log_and_mlflow(tmp_path, server, capsys):
    w = watch(tmp_path)
    rows = [step(i) for i in (1, 2, 3)]
    for i, row in enumerate(rows, 1):
        w.on_step(row, i, 3)
    w.on_tuning(tuning(3, HEALTHY))
    w.finish({"steps": 3}, 300)
    assert read_history(tmp_path) == [*rows, tuning(3, HEALTHY)]
    clock = read_rows(tmp_path / "timing.jsonl")
    assert [row.get("step") for row in clock] == [1, 2, 3, None]
    assert all(row["rss_mb"] > 1 and row["tokens_per_s"] > 0 for row in clock)
    assert "mfu" not in clock[0], "nothing is known of a CPU's peak"
    said = capsys.readouterr().out
    assert "both: step 3/3 (100%), loss 3.0000 (sft 2.0000, jepa 1.0000), learning rate 1.00e-03" in said
    assert "tuning loss 2.5000 (sft 2.0000, jepa 0.5000) after step 3; target encoder: std 1" in said
    told = {(m.key, m.step): m.value for m in server.taken}
    assert told["train/jepa", 2] == 1.0
    assert told["tuning/loss", 3] == 2.5
    assert told["tuning/jepa", 3] == 0.5
    assert told["target/effective_rank", 3] == 20.0
    assert {"speed/tokens_per_s", "memory/rss_mb", "train/lr", "train/grad_norm"} <= {k for k, _ in told}


def test_one_objective_is_not_said_twice(tmp_path, capsys):
    w = watch(tmp_path, tracked=False)
    w.on_step(step(1, losses={"sft": 3.0}), 1, 1)
    assert "loss 3.0000, learning rate" in capsys.readouterr().out


def test_a_silent_rank_leaves_nothing(tmp_path, capsys):
    w = Watch(tmp_path, Log(None), None, 1, False)
    w.on_step(step(1), 1, 1)
    w.on_tuning(tuning(1))
    w.finish({}, 1)
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


def test_a_tracking_server_that_fails_ends_nothing_and_loses_nothing(tmp_path, server, capsys):
    w = watch(tmp_path, every=1)
    server.broken = True
    for i in range(1, 21):
        w.on_step(step(i), i, 40)
    assert server.calls < 10, "it is asked ever less often"
    assert "MLflow did not take" in capsys.readouterr().out
    server.broken = False
    w.finish({}, 1)
    assert [m.step for m in server.taken if m.key == "train/loss"] == list(range(1, 21))


def test_a_history_that_is_taken_up_is_told_again_in_batches(tmp_path, server):
    before = [step(i) for i in range(1, 801)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in before))
    w = watch(tmp_path)
    w.take_up()
    assert len(server.taken) == 800 * len(metrics_of(before[0])) > MOST_METRICS
    w.on_step(step(802), 2, 2)
    assert points(read_history(tmp_path), "loss")[-1] == (802, 3.0)
    assert read_rows(tmp_path / "timing.jsonl")[0]["step"] == 802


def test_a_tuning_pass_takes_nothing_from_the_speed(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    w = watch(tmp_path, tracked=False)
    for i in range(1, 9):
        now += 2.0
        w.on_step(step(i), i, 8)
        if i in (1, 3, 4):
            now += 60.0
            w.on_tuning(tuning(i))
    clock = read_rows(tmp_path / "timing.jsonl")
    assert [(row["step"], row["tokens_per_s"]) for row in clock] == [(i, 50.0) for i in (1, 2, 4, 6, 8)]


def test_mfu_where_the_peak_is_known(tmp_path, monkeypatch, capsys):
    name = "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)
    recipe = RecipeSpec.model_validate(recipe_data())
    config = {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": 48}
    w = watch(tmp_path, tracked=False)
    w.begin(recipe, config, world=2)
    w.on_step(step(1, phase="sft", tokens=10**9), 1, 1)
    row = read_rows(tmp_path / "timing.jsonl")[0]
    assert row["gpu_mb"] == 1024
    per_token = sum(w._flops.values())
    assert row["mfu"] == pytest.approx(row["tokens_per_s"] * per_token / (2 * peak_flops(name)), abs=1e-4)
    assert "MFU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peaks_by_the_devices_name(name, peak):
    assert peak_flops(name) == peak


def test_reading_a_history():
    rows = [step(1, "a", losses={"sft": 1.0}), step(2, "b"), tuning(2, HEALTHY, "b")]
    assert points(rows, "loss") == [(1, 3.0), (2, 3.0)]
    assert points(rows, "losses", "jepa") == [(2, 1.0), (2, 0.5)]
    assert points(tunings(rows), "target", "std") == [(2, 1.0)]
    assert (len(steps(rows)), objectives(rows), phases(rows)) == (2, ["sft", "jepa"], [("a", 1), ("b", 2)])


def test_the_plot_shows_what_there_is(tmp_path):
    rows = [step(1), step(2), tuning(2, HEALTHY)]
    titles = [p.title for p in curves.panels_of(rows, [{"step": 1, "tokens_per_s": 1.0, "rss_mb": 3.0}])]
    assert titles[:2] == ["sft loss", "jepa loss"]
    assert "target: effective rank" in titles
    assert "MFU" not in titles
    alone = curves.panels_of([step(1, losses={"sft": 3.0})], [])
    assert [p.title for p in alone] == ["sft loss", "learning rate", "gradient norm"]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert base64.b64decode(curves.curves_png(tmp_path)).startswith(b"\x89PNG")


def statistics(states: torch.Tensor) -> dict[str, float]:
    found = TargetStatistics(states.shape[1])
    found.add(states, states)
    return found.result()


def planted(kind: str) -> torch.Tensor:
    """States of 500 tokens in 64 dimensions."""
    g = torch.Generator().manual_seed(1)
    free = torch.randn(500, 64, generator=g)
    mean = torch.randn(64, generator=g)
    return {
        "sound": mean + free,
        "one vector": mean + 1e-3 * free,
        "one direction": mean + torch.randn(500, 1, generator=g) * torch.randn(64, generator=g) + 1e-4 * free,
        "nothing": 1e-4 * free,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("sound", None),
        ("one vector", "nearly the same vector"),
        ("one direction", "too few directions"),
        ("nothing", "shrunk to nothing"),
    ],
)
def test_a_planted_collapse_is_seen(kind, said):
    found = judge_collapse([tuning(1, statistics(planted("sound"))), tuning(9, statistics(planted(kind)))])
    assert found.ok is (said is None)
    assert said is None or said in (found.problem or "")


def test_the_weights_of_an_earlier_step_are_judged_by_it():
    rows = [tuning(1, statistics(planted("sound"))), tuning(9, statistics(planted("one vector")))]
    assert judge_collapse(rows, step=1).ok
    assert not judge_collapse(rows, step=9).ok


def test_what_cannot_be_judged_does_not_pass():
    assert not judge_collapse([step(1), tuning(1)]).ok
    broken = {**HEALTHY, "effective_rank": float("nan")}
    assert not judge_collapse([tuning(1, HEALTHY), tuning(2, broken)]).ok
