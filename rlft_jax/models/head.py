"""Log-probabilities from hidden states: the head and the softmax as one function.

Its gradient is written out, for speed: softmax minus the one that was chosen, as operands of the
type that the model computes in, summed in float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class HeadScores(NamedTuple):
    """What the head says of chosen tokens, in nats; only the log-probabilities have a gradient."""

    logprobs: Float[Array, " r"]
    entropy: Float[Array, " r"]
    is_top: Bool[Array, " r"]


def logits(hidden: Float[Array, "r D"], head: Float[Array, "V D"]) -> Float[Array, "r V"]:
    """Returns float32 logits; mind their size."""
    head = head.astype(hidden.dtype)
    return jnp.einsum("rd,vd->rv", hidden, head, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def scores(
    hidden: Float[Array, "r D"],
    head: Float[Array, "V D"],
    targets: Int[Array, " r"],
    temperature: float = 1.0,
    with_entropy: bool = False,
    keeps_logits: bool = False,
) -> HeadScores:
    """Log-probability of a target at every position.

    Args:
        temperature: Logits are divided by it.
        with_entropy: Whether to compute entropies; they are 0 otherwise.
        keeps_logits: Whether the gradient may have the logits kept for it, rather than compute
            them again.
    """
    return _scores(logits(hidden, head) / temperature, targets, with_entropy)[0]


def _scores(
    logits_rV: Float[Array, "r V"], targets: Int[Array, " r"], with_entropy: bool
) -> tuple[HeadScores, Float[Array, " r"]]:
    """Scores, and the logarithm of the sum of all exponentials."""
    top_r = logits_rV.max(-1)
    shifted_rV = logits_rV - top_r[:, None]
    weights_rV = jnp.exp(shifted_rV)
    total_r = weights_rV.sum(-1)
    log_total_r = jnp.log(total_r)
    chosen_r = jnp.take_along_axis(shifted_rV, targets[:, None], axis=-1)[:, 0]
    entropy_r = jnp.zeros_like(total_r)
    if with_entropy:
        entropy_r = log_total_r - (weights_rV * shifted_rV).sum(-1) / total_r
    return HeadScores(chosen_r - log_total_r, entropy_r, chosen_r >= 0), top_r + log_total_r


def _forward(hidden, head, targets, temperature, with_entropy, keeps_logits):
    logits_rV = logits(hidden, head) / temperature
    found, log_total_r = _scores(logits_rV, targets, with_entropy)
    return found, (hidden, head, targets, log_total_r, logits_rV if keeps_logits else None)


def _backward(temperature, with_entropy, keeps_logits, kept, gradient):
    hidden, head, targets, log_total_r, logits_rV = kept
    if logits_rV is None:
        logits_rV = logits(hidden, head) / temperature
    is_chosen_rV = jnp.arange(logits_rV.shape[1])[None] == targets[:, None]
    slope_rV = is_chosen_rV - jnp.exp(logits_rV - log_total_r[:, None])
    slope_rV = (slope_rV * (gradient.logprobs / temperature)[:, None]).astype(hidden.dtype)
    sums = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    to_hidden = sums("rv,vd->rd", slope_rV, head.astype(hidden.dtype)).astype(hidden.dtype)
    to_head = sums("rv,rd->vd", slope_rV, hidden).astype(head.dtype)
    return to_hidden, to_head, None


scores.defvjp(_forward, _backward)
