"""Rows to attend over, and what comparing two forms of attention needs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Shape(NamedTuple):
    """Sizes of queries, keys and values."""

    tokens: int
    heads: int
    kv_heads: int
    head_width: int


SHAPES = {
    "grouped": Shape(tokens=48, heads=4, kv_heads=2, head_width=8),
    "one of all": Shape(tokens=40, heads=3, kv_heads=1, head_width=16),
    "uneven": Shape(tokens=41, heads=2, kv_heads=2, head_width=8),
    "short": Shape(tokens=5, heads=2, kv_heads=1, head_width=8),
}
# Of each row, as shares of it; the rest is padding.
LENGTHS = ((1.0,), (0.2, 0.5), (0.1, 0.1, 0.6, 0.2), (0.05, 0.3))


def segments(tokens: int) -> jax.Array:
    """Rows of one segment, of several, and with padding."""
    rows = np.zeros((len(LENGTHS), tokens), np.int32)
    number = 0
    for row, shares in zip(rows, LENGTHS):
        at = 0
        for share in shares:
            number, end = number + 1, at + max(int(share * tokens), 1)
            row[at:end], at = number, end
    return jnp.asarray(rows)


def operands(shape: Shape, *, rows: int = len(LENGTHS), seed: int = 0, dtype="float32"):
    """Random queries, keys and values, and a cotangent."""
    rng = np.random.default_rng(seed)
    make = lambda heads: jnp.asarray(
        rng.standard_normal((rows, shape.tokens, heads, shape.head_width)), dtype
    )
    heads, kv_heads = shape.heads, shape.kv_heads
    return make(heads), make(kv_heads), make(kv_heads), make(heads)


def with_gradients(form: Callable, q, k, v, cotangent, segments) -> tuple[np.ndarray, ...]:
    """What real tokens attend to, and gradients; `form` is of segments and then of operands."""
    is_real = (segments > 0)[..., None, None]

    @jax.jit
    def run(q, k, v, cotangent, segments):
        y, pull = jax.vjp(form(segments), q, k, v)
        return y, pull(jnp.where(is_real, cotangent, 0))

    y, gradients = run(q, k, v, cotangent, segments)
    return tuple(np.asarray(x, np.float32) for x in (jnp.where(is_real, y, 0), *gradients))


def dense(segments: jax.Array) -> Callable:
    """The definition: all scores of a row at once."""
    T = segments.shape[1]
    is_same = segments[:, None, :, None] == segments[:, None, None, :]
    mask = is_same & jnp.tri(T, dtype=bool)[None, None]
    return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask)


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
