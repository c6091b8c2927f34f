"""Filters keep what their definitions say."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.sampling.filters import keep_min_p, keep_top_k, keep_top_p, penalise_repetition

LOGITS = np.random.default_rng(0).normal(0, 2, (50, 31)).astype(np.float32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)


def kept(filtered) -> np.ndarray:
    """Where a filter let logits pass, which it must do unchanged."""
    filtered = np.asarray(filtered)
    is_kept = np.isfinite(filtered)
    np.testing.assert_array_equal(filtered[is_kept], LOGITS[is_kept])
    return is_kept


@pytest.mark.parametrize("k", [1, 5, 31, 100])
def test_top_k_keeps_the_k_largest(k):
    rank = np.argsort(np.argsort(-LOGITS))
    np.testing.assert_array_equal(kept(keep_top_k(jnp.asarray(LOGITS), k)), rank < k)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.9999])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    is_kept = kept(keep_top_p(jnp.asarray(LOGITS), p))
    for probabilities, keep in zip(PROBABILITIES, is_kept):
        likeliest_first = np.argsort(-probabilities)
        before = np.cumsum(probabilities[likeliest_first]) - probabilities[likeliest_first]
        expected = set(likeliest_first[before < p])
        assert set(np.flatnonzero(keep)) == expected


def test_top_p_of_ties_keeps_no_more_than_it_needs():
    assert np.isfinite(keep_top_p(jnp.zeros(10), 0.35)).sum() == 4
    assert np.isfinite(keep_top_p(jnp.zeros(4), 0.5)).tolist() == [False, False, True, True]


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_min_p_is_relative_to_the_likeliest(p):
    least = p * PROBABILITIES.max(-1, keepdims=True)
    np.testing.assert_array_equal(kept(keep_min_p(jnp.asarray(LOGITS), p)), least <= PROBABILITIES)


def test_filters_in_a_row_see_what_the_last_one_left():
    # Of 0.4 0.3 0.2 0.1, top-k leaves 4/7 and 3/7, of which the first alone reaches 0.5.
    logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    assert np.isfinite(keep_top_p(keep_top_k(logits, 2), 0.5)).tolist() == [
        True,
        False,
        False,
        False,
    ]
    assert np.isfinite(keep_top_p(logits, 0.5)).tolist() == [True, True, False, False]


def test_repetition_penalty_lowers_logits_of_either_sign():
    seen = jnp.asarray(LOGITS) > 1
    penalised = penalise_repetition(jnp.asarray(LOGITS), seen, 1.3)
    np.testing.assert_array_equal(np.asarray(penalised)[~seen], LOGITS[~np.asarray(seen)])
    lowered = penalise_repetition(jnp.array([1.3, -1.0]), jnp.array([True, True]), 1.3)
    np.testing.assert_allclose(lowered, [1.0, -1.3], rtol=1e-6)
