"""Facts about what happens after a step."""

import numpy as np

from rlft_jax.training.hooks import Watch


def watching(trained: np.ndarray, held_out: np.ndarray, window: int = 10) -> Watch:
    watch = Watch("judge", window)
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


def test_noise_is_not_taken_for_cheating():
    rng = np.random.default_rng(1)
    found = [watching(*rng.standard_normal((2, 20))).is_cheated for _ in range(500)]
    assert np.mean(found) < 0.01
