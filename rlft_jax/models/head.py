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

    logprobs: Float[Array, "n r"]
    entropy: Float[Array, "n r"]
    is_top: Bool[Array, "n r"]


def logits(hidden: Float[Array, "r D"], head: Float[Array, "V D"]) -> Float[Array, "r V"]:
    """Returns float32 logits; mind their size."""
    head = head.astype(hidden.dtype)
    return jnp.einsum("rd,vd->rv", hidden, head, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def scores(
    hidden: Float[Array, "n r D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "n r"],
    is_needed: Bool[Array, " n"],
    temperature: float = 1.0,
    with_entropy: bool = False,
    keeps_logits: bool = False,
) -> HeadScores:
    """Log-probability of a target at every position, a chunk of positions after another.

    Args:
        is_needed: Chunks that are computed; the others' scores and gradients are 0.
        temperature: Logits are divided by it.
        with_entropy: Whether to compute entropies; they are 0 otherwise.
        keeps_logits: Whether the gradient may have all logits kept for it, rather than compute
            them again.
    """
    return _forward(hidden, head, targets, is_needed, temperature, with_entropy, False)[0]


def _forward(hidden, head, targets, is_needed, temperature, with_entropy, keeps_logits):
    def score(hidden_rD, targets_r):
        logits_rV = logits(hidden_rD, head) / temperature
        found, log_total_r = _scores(logits_rV, targets_r, with_entropy)
        return found, log_total_r, logits_rV if keeps_logits else None

    def chunk(_, x):
        is_needed, *chosen = x
        return None, jax.lax.cond(is_needed, score, _nothing(score, *chosen), *chosen)

    unroll = len(hidden) if keeps_logits else 1
    _, found = jax.lax.scan(chunk, None, (is_needed, hidden, targets), unroll=unroll)
    scores, log_total_nr, logits_nrV = found
    return scores, (hidden, head, targets, is_needed, log_total_nr, logits_nrV)


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


def _backward(temperature, with_entropy, keeps_logits, kept, gradient):
    hidden, head, targets, is_needed, log_total_nr, logits_nrV = kept
    sums = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def slopes(to_head_VD, hidden_rD, targets_r, log_total_r, logits_rV, gradient_r):
        if logits_rV is None:
            logits_rV = logits(hidden_rD, head) / temperature
        is_chosen_rV = jnp.arange(len(head))[None] == targets_r[:, None]
        slope_rV = is_chosen_rV - jnp.exp(logits_rV - log_total_r[:, None])
        slope_rV = (slope_rV * (gradient_r / temperature)[:, None]).astype(hidden.dtype)
        to_hidden_rD = sums("rv,vd->rd", slope_rV, head.astype(hidden.dtype)).astype(hidden.dtype)
        return to_head_VD + sums("rv,rd->vd", slope_rV, hidden_rD), to_hidden_rD

    def chunk(to_head_VD, x):
        is_needed, *chosen = x
        skip = lambda to_head_VD, hidden_rD, *_: (to_head_VD, jnp.zeros_like(hidden_rD))
        return jax.lax.cond(is_needed, slopes, skip, to_head_VD, *chosen)

    of_chunks = (is_needed, hidden, targets, log_total_nr, logits_nrV, gradient.logprobs)
    unroll = len(hidden) if keeps_logits else 1
    to_head, to_hidden = jax.lax.scan(
        chunk, jnp.zeros(head.shape, jnp.float32), of_chunks, unroll=unroll
    )
    return to_hidden, to_head.astype(head.dtype), None, None


def _nothing(function, *arguments):
    """A function that returns zeros where `function` returns anything."""
    shapes = jax.eval_shape(function, *arguments)
    return lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


scores.defvjp(_forward, _backward)
