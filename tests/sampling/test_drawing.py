"""Tokens are drawn by their probabilities, however a vocabulary is cut into blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.sampling.drawing import drawn, likeliest

DRAWS = 20_000
# 99.9 % of chi-square with so many degrees of freedom stay below this.
QUANTILES = {23: 49.7, 36: 68.0, 271: 348.6}


def draws(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Many tokens from the same logits."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(DRAWS))
    rows = jnp.broadcast_to(jnp.asarray(logits), (DRAWS, len(logits)))
    return np.asarray(jax.jit(drawn)(rows, keys, jnp.arange(DRAWS) % 7))


@pytest.mark.parametrize("V", [24, 37, 272])
def test_frequencies_are_probabilities(V):
    """Of vocabularies with and without padding to whole blocks."""
    logits = np.random.default_rng(V).normal(0, 1.0, V).astype(np.float32)
    expected = DRAWS * np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    counts = np.bincount(draws(logits), minlength=V)
    assert ((counts - expected) ** 2 / expected).sum() < QUANTILES[V - 1]


def test_what_is_forbidden_is_never_drawn():
    logits = np.full(37, -np.inf, np.float32)
    logits[[3, 30, 36]] = [0.0, -1.0, -100.0]  # of three blocks, the last hopeless
    counts = np.bincount(draws(logits), minlength=37)
    assert counts[3] + counts[30] == DRAWS
    assert counts[30] / DRAWS == pytest.approx(1 / (1 + np.e), abs=0.02)


def test_a_draw_depends_on_its_own_key_and_place_alone():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 1, (6, 40)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 6)
    t = jnp.arange(6)
    together = drawn(logits, keys, t)
    for row in range(6):
        alone = drawn(logits[row : row + 1], keys[row : row + 1], t[row : row + 1])
        assert alone[0] == together[row]
    same = jnp.broadcast_to(logits[:1], (6, 40))
    assert len(set(drawn(same, keys[jnp.zeros(6, int)], t).tolist())) > 1  # by place
    assert len(set(drawn(same, keys, jnp.zeros(6, int)).tolist())) > 1  # by key


def test_the_likeliest_is_the_first_of_the_largest():
    logits = np.random.default_rng(0).integers(0, 4, (50, 23)).astype(np.float32)
    np.testing.assert_array_equal(likeliest(jnp.asarray(logits)), logits.argmax(-1))
