"""Facts about what happens after a step."""

import math

import numpy as np

from rlft_jax.training.hooks import History, Watch
from rlft_jax.training.retention import Mode


def watching(
    trained: np.ndarray, held_out: np.ndarray, window: int = 10, mode: Mode = "max"
) -> Watch:
    watch = Watch("judge", window, mode)
    for reward, judged in zip(trained, held_out, strict=True):
        watch.add({"reward": float(reward), "rewards/judge/mean": float(judged)})
    return watch


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


def test_patience_ends_where_the_metric_gets_worse():
    past = [(2, 0.5), (4, 0.3), (6, 0.4)]
    assert History("eval_truncated", past, "min").without_progress == 1
    assert History("eval_accuracy", past, "max").without_progress == 2
    assert History("eval_loss", [*past, (8, math.nan)], "min").is_over(2)
    assert not History("eval_loss", past, "min").is_over(2)
