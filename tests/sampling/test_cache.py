"""What an 8-bit cache holds stands for the keys and values that it was made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.bench.flops import QWEN2_5_0_5B
from rlft_jax.models.qwen2 import Compute, rotary, rotate
from rlft_jax.sampling import decoding
from rlft_jax.sampling.cache import kept_keys, kept_values, scored, token_bytes
from rlft_jax.sampling.sampler import Sampler
from rlft_jax.sampling.settings import SamplingSettings
from tests.sampling.tiny import TINY, make

R, T, K, H = 3, 5, 2, 8
ROTATION = rotary(jnp.arange(T)[None], H, 1e4)
# A channel of each head is far larger than all that tokens differ in.
BIAS = jnp.zeros(K * H).at[jnp.array([2, 13])].set(jnp.array([300.0, -80.0]))


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def rotated(keys: jax.Array) -> jax.Array:
    """Keys as attention has them, from what they are beside their bias."""
    return rotate(keys + BIAS.reshape(1, 1, K, H), ROTATION)


def test_numbers_are_kept_within_half_a_scale():
    values = normal(0, R, T, K, H).at[0, 0, 0].set(0)
    integers, scales = kept_values(values, "int8")
    x = np.asarray(jnp.transpose(values, (0, 2, 1, 3)))
    assert (np.abs(x - integers * scales) <= np.asarray(scales) * (0.5 + 1e-5)).all()
    largest = np.abs(integers).max(-1)
    assert largest[0, 0, 0] == 0
    assert np.delete(largest.ravel(), 0).tolist() == [127] * (R * T * K - 1)


def test_a_large_bias_of_the_keys_takes_no_precision_from_the_rest():
    keys = normal(1, R, T, K, H)
    biased = kept_keys(rotated(keys), BIAS, ROTATION, "int8")
    plain = kept_keys(rotate(keys, ROTATION), 0 * BIAS, ROTATION, "int8")
    np.testing.assert_allclose(biased.scales, plain.scales, rtol=1e-4)


def test_the_bias_is_taken_away_as_the_projection_rounded_it():
    """Reading a prompt has it in float32, writing a completion in the type of the arithmetic."""
    bias = BIAS + 0.3
    keys = rotate(normal(1, R, T, K, H) + bias.reshape(1, 1, K, H), ROTATION).astype(jnp.bfloat16)
    read, written = (
        kept_keys(keys, x, ROTATION, "int8") for x in (bias, bias.astype(jnp.bfloat16))
    )
    np.testing.assert_array_equal(read.integers, written.integers)
    np.testing.assert_array_equal(read.scales, written.scales)


def test_attention_over_a_quantised_cache_is_attention_over_what_it_stands_for():
    """The products of queries with keys, and the sums of values."""
    q, keys, values = normal(2, R, 2 * K, H), normal(3, R, T, K, H), normal(4, R, T, K, H)
    mask = jnp.arange(2 * T)[None] < jnp.array([[2 * T], [T + 1], [2]])

    def attended(keys, values):
        columns = decoding.Columns(keys, values, ROTATION)
        return decoding._attended(q, columns, columns, BIAS, mask)

    kept = kept_keys(rotated(keys), BIAS, ROTATION, "int8"), kept_values(values, "int8")
    turned = jnp.transpose(rotated(0 * keys), (0, 2, 3, 1))
    stands_for = [integers * scales for integers, scales in kept]
    expected = attended(stands_for[0] + turned, stands_for[1])
    np.testing.assert_allclose(attended(*kept), expected, atol=1e-4)
    true = [x.transpose(0, 2, *axes) for x, axes in ((rotated(keys), (3, 1)), (values, (1, 3)))]
    assert 1e-3 < jnp.abs(attended(*true) - expected).max() < 0.05  # it is not exact


def test_what_8_bits_hold_exactly_is_read_exactly():
    integers = np.random.default_rng(5).integers(-126, 127, (R, T, K, H))
    integers[..., 0] = 127
    keys = jnp.asarray(integers * 2.0 ** np.arange(-T, 0)[:, None, None], jnp.float32)
    still = rotary(jnp.zeros((1, T), int), H, 1e4)
    q = normal(6, R, K, 2, H)
    full, kept = (kept_keys(keys, 0 * BIAS, still, dtype) for dtype in (None, "int8"))
    np.testing.assert_array_equal(scored(q, kept, 0 * BIAS, still), scored(q, full, BIAS, still))


@pytest.mark.parametrize("dtype", [None, "int8"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_cache_takes_the_bytes_that_were_said(compute, dtype):
    graph, params = make(Compute(dtype=compute))
    programs = Sampler(graph, SamplingSettings(max_new_tokens=4, cache_dtype=dtype))._programs
    tokens, lengths = np.ones((2, 16), np.int32), np.full(2, 16, np.int32)
    prompts = jax.eval_shape(programs.prefill, params, tokens, lengths)
    free = jax.eval_shape(lambda p: decoding.free_rows(p, rows=3, columns=20), prompts)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((free.keys, free.values)))
    assert held == 3 * 20 * token_bytes(TINY, dtype, width=jnp.dtype(compute).itemsize)


def test_8_bits_take_about_half_of_16():
    assert token_bytes(QWEN2_5_0_5B, None, width=2) == 12_288
    assert token_bytes(QWEN2_5_0_5B, "int8", width=2) == 6_528
