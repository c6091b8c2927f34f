"""What sampling does to logits: penalties, and filters that forbid unlikely tokens.

Semantics are those of the logits processors of `transformers`, where they apply in the order of
this file, with the temperature after the penalty.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Logits `[*r, V]` in, logits out; what may not be sampled becomes -inf.
Filter = Callable[[Array], Array]


def penalise_repetition(
    logits: Float[Array, "*r V"], seen: Bool[Array, "*r V"], penalty: float
) -> Float[Array, "*r V"]:
    """Makes seen tokens less likely (Keskar et al., 2019, arXiv:1909.05858).

    >>> penalise_repetition(jnp.array([2.0, -2.0, 1.0]), jnp.array([True, True, False]), 2.0)
    Array([ 1., -4.,  1.], dtype=float32)
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Float[Array, "*r V"], k: int) -> Float[Array, "*r V"]:
    """Keeps the k largest logits, and all that equal the smallest of them.

    >>> keep_top_k(jnp.array([1.0, 3.0, 2.0, 2.0]), 2)
    Array([-inf,   3.,   2.,   2.], dtype=float32)
    """
    least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*r V"], p: float) -> Float[Array, "*r V"]:
    """Keeps the likeliest tokens whose probabilities first reach p (arXiv:1904.09751).

    Of equally likely tokens at the border, the first in the vocabulary go first, as in
    `transformers`.
    """
    order = jnp.argsort(logits, axis=-1)
    total = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1)), axis=-1)
    keep = (total > 1 - p).at[..., -1].set(True)
    keep = jnp.take_along_axis(keep, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(keep, logits, -jnp.inf)


def keep_min_p(logits: Float[Array, "*r V"], p: float) -> Float[Array, "*r V"]:
    """Keeps tokens at least p times as likely as the likeliest (arXiv:2407.01082)."""
    probabilities = jax.nn.softmax(logits)
    return jnp.where(probabilities < p * probabilities.max(-1, keepdims=True), -jnp.inf, logits)
