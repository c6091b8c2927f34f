"""Facts about what happens after a step."""

import math
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.metrics import Count, Mean
from rlft_jax.training import hooks
from rlft_jax.training.hooks import History, TrainingTime, Watch, log
from rlft_jax.training.loop import Progress
from rlft_jax.training.report import Report
from rlft_jax.training.retention import Mode
from rlft_jax.training.run_directory import RunDirectory
from tests.tiny_run import lines


def watching(
    trained: np.ndarray, held_out: np.ndarray, window: int = 10, mode: Mode = "max"
) -> Watch:
    watch = Watch("judge", window, mode)
    for step, (reward, judged) in enumerate(zip(trained, held_out, strict=True), 1):
        watch.add(step, earned(reward, judged))
    return watch


def earned(reward: float, judged: float) -> dict[str, float | None]:
    return {"reward": float(reward), "rewards/judge/mean": float(judged)}


def test_metrics_are_looked_at_when_the_devices_have_a_next_step(tmp_path):
    """Nothing waits for a step's numbers before the next is on its way; none come out of order."""
    directory, notes = RunDirectory(tmp_path), []
    report = Report(directory, tensorboard=False)
    note = lambda _, note="": notes.append(note)
    hook = log(report, note, TrainingTime(), tokens=0, every=1, steps=9)
    written = lambda: [line["step"] for line in lines(directory.metrics)]
    metrics = lambda step: {"loss": Mean.of(jnp.ones(2)), "num_tokens": Count.zero()}
    state: Any = None  # the next step has its buffers
    for step in (1, 2, 3):
        hook(Progress(step, state, metrics(step), {}))
        assert written() == list(range(1, step))
    assert notes == ["loss 1"] * 2
    report.metrics(3, {"eval_loss": 2.0})
    assert [sorted(line) for line in lines(directory.metrics)[2:]] == [
        ["loss", "num_tokens", "step"],
        ["eval_loss", "step"],
    ]
    hook(Progress(4, state, metrics(4), {}))
    report.sync()
    assert written() == [1, 2, 3, 3, 4]
    assert [line["step"] for line in lines(directory.timings)] == [1, 2, 3, 4]
    report.close()


def test_rates_are_of_the_steps_between_two_that_are_logged(tmp_path, monkeypatch):
    directory, now = RunDirectory(tmp_path), 0.0
    monkeypatch.setattr(hooks, "time", SimpleNamespace(monotonic=lambda: now))
    report, training_time = Report(directory, tensorboard=False), TrainingTime()
    hook = log(report, lambda _, note="": None, training_time, tokens=0, every=3, steps=9)
    tokens = lambda step: Count(jnp.uint32(70 * step), jnp.uint32(0))
    state: Any = None
    for step in range(1, 8):
        now += 2.0
        hook(Progress(step, state, {"num_tokens": tokens(step)}, {}))
        with training_time.aside(state):  # an evaluation, which is no training
            now += 1000.0
        assert len(lines(directory.metrics)) == (step - 1) // 3
    report.close()
    found = [(x["step"], x["step_time"], x["tokens_per_second"]) for x in lines(directory.timings)]
    assert found == [(3, 2.0, 35), (6, 2.0, 35)]


def test_what_a_failed_step_leaves_waiting_keeps_no_file_open(tmp_path):
    def fail(values):
        raise RuntimeError("out of memory")

    report = Report(RunDirectory(tmp_path), tensorboard=False)
    report.metrics_later(1, {"loss": 1.0}, fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        report.close()
    with pytest.raises(ValueError, match="closed file"):
        report.metrics(2, {"loss": 1.0})


def test_a_reward_that_rises_while_the_watched_one_falls_is_cheated():
    noise = 0.01 * np.random.default_rng(0).standard_normal((2, 40))
    up, down = np.linspace(0, 1, 40) + noise[0], np.linspace(1, 0, 40) + noise[1]
    assert watching(up, down).is_cheated
    assert not watching(up, up).is_cheated
    assert not watching(down, down).is_cheated
    assert not watching(up[:19], down[:19]).is_cheated
    assert watching(up[:20], down[:20]).is_cheated
    assert watching(up, up, mode="min").is_cheated
    assert not watching(up, down, mode="min").is_cheated


def test_noise_is_not_taken_for_cheating():
    rng = np.random.default_rng(1)
    found = [watching(*rng.standard_normal((2, 20))).is_cheated for _ in range(500)]
    assert np.mean(found) < 0.01


def test_noise_is_not_taken_for_cheating_however_many_steps_share_a_rollout():
    """A look is taken after every step, and a rollout has the same rewards in all of its own."""
    rng, stopped = np.random.default_rng(2), 0
    for _ in range(20):
        watch = Watch("judge", 10, steps=4)
        rollouts = [earned(*rng.standard_normal(2)) for _ in range(60)]
        for step in range(1, 4 * 60 + 1):
            watch.add(step, rollouts[(step - 1) // 4])
            stopped += watch.is_cheated
    assert stopped == 0


def test_a_reward_that_was_not_finite_ends_no_run():
    rising, falling = np.linspace(0, 1, 20), np.linspace(1, 0, 20)
    watch = watching(rising[:19], falling[:19])
    watch.add(20, {"reward": None, "rewards/judge/mean": 0.0})
    assert not watch.is_cheated


def test_patience_ends_where_the_metric_gets_worse():
    past = [(2, 0.5), (4, 0.3), (6, 0.4)]
    assert History("eval_truncated", past, "min").without_progress == 1
    assert History("eval_accuracy", past, "max").without_progress == 2
    assert History("eval_loss", [*past, (8, math.nan)], "min").is_over(2)
    assert not History("eval_loss", past, "min").is_over(2)
