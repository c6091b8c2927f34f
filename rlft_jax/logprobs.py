"""Log-probabilities of given tokens: the one currency of all policy objectives.

This is the only place that shifts tokens against logits. Logits exist for one chunk at a time,
on the way forward and on the way back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft_jax.batch import Batch
from rlft_jax.models import head
from rlft_jax.models.qwen2 import Qwen2


class Scores(NamedTuple):
    """What a model says of given tokens, in nats; entry 0 of a segment is 0.

    Attributes:
        entropy: Of the distribution that each token was drawn from; 0 unless asked for.
        is_top: Whether no token was likelier.
    """

    logprobs: Float[Array, "R T"]
    entropy: Float[Array, "R T"]
    is_top: Bool[Array, "R T"]


def token_scores(
    model: Qwen2,
    batch: Batch,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Scores:
    """Scores each token of a micro-batch given those before it in its segment.

    Args:
        temperature: Logits are divided by it, as when sampling.
        with_entropy: Whether to compute entropies.
    """
    hidden_RTD = model.hidden(batch.tokens, batch.segments, batch.positions, batch.starts)
    next_RT = jnp.roll(batch.tokens, -1, axis=1)
    scores = head_scores(
        model, hidden_RTD, next_RT, temperature=temperature, with_entropy=with_entropy
    )
    # Scored where it was predicted; a segment's first token was predicted by nothing.
    is_predicted = (batch.segments > 0) & (batch.positions > 0)
    shift = lambda x: jnp.where(is_predicted, jnp.roll(x, 1, axis=1), jnp.zeros_like(x))
    return jax.tree.map(shift, scores)


def response_logprobs(
    model: Qwen2, batch: Batch, *, temperature: float = 1.0
) -> Float[Array, "R T"]:
    """Log-probabilities of a micro-batch's response tokens, 0 elsewhere."""
    scores = token_scores(model, batch, temperature=temperature)
    return jnp.where(batch.is_response, scores.logprobs, 0)


def head_scores(
    model: Qwen2,
    hidden: Float[Array, "R T D"],
    targets: Int[Array, "R T"],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Scores:
    """Log-probability of a target at every position, and the entropy if asked for."""
    (R, T, D), head_VD = hidden.shape, model.head_matrix
    chunks = min(-(-R * T // model.compute.tokens_at_once(len(head_VD))), T)
    width = -(-T // chunks)
    spare = chunks * width - T

    def score(_, chunk: tuple[Array, Array]) -> tuple[None, head.HeadScores]:
        hidden_RcD, targets_Rc = chunk
        found = head.scores(
            hidden_RcD.reshape(-1, D),
            head_VD,
            targets_Rc.ravel(),
            temperature,
            with_entropy,
            chunks == 1,  # then the memory for one chunk of logits is there all the way
        )
        return None, jax.tree.map(lambda x: x.reshape(targets_Rc.shape), found)

    def to_chunks(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, spare)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(R, chunks, width, *x.shape[2:]).swapaxes(0, 1)

    from_chunks = lambda x: x.swapaxes(0, 1).reshape(R, T + spare)[:, :T]
    _, found = jax.lax.scan(score, None, (to_chunks(hidden), to_chunks(targets)))
    return Scores(*jax.tree.map(from_chunks, found))
