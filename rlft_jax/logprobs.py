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
    """What a model says of given response tokens, in nats; all others have 0.

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
    """Scores each response token of a micro-batch given those before it in its segment.

    Args:
        temperature: Logits are divided by it, as when sampling.
        with_entropy: Whether to compute entropies.
    """
    hidden_RTD = model.hidden(
        batch.tokens, batch.segments, batch.positions, batch.starts, batch.prompt_starts
    )
    # Scored where it was predicted; a segment's first token was predicted by nothing.
    is_scored = batch.is_response & (batch.positions > 0)
    scores = head_scores(
        model,
        hidden_RTD,
        jnp.roll(batch.tokens, -1, axis=1),
        jnp.roll(is_scored, -1, axis=1),
        temperature=temperature,
        with_entropy=with_entropy,
    )
    return jax.tree.map(lambda x: jnp.roll(x, 1, axis=1), scores)


def response_logprobs(
    model: Qwen2, batch: Batch, *, temperature: float = 1.0
) -> Float[Array, "R T"]:
    """Log-probabilities of a micro-batch's response tokens, 0 elsewhere."""
    return token_scores(model, batch, temperature=temperature).logprobs


# Chunks that a device's part of a micro-batch is cut into at least, so that those with nothing to
# score are left out, and the positions that a chunk has at least for it. On two CPU cores eight
# chunks take 1% longer than one where all positions are scored; other devices were not measured.
CHUNKS, POSITIONS = 8, 256


def head_scores(
    model: Qwen2,
    hidden: Float[Array, "R T D"],
    targets: Int[Array, "R T"],
    is_scored: Bool[Array, "R T"] | None = None,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Scores:
    """Log-probability of a target at positions, and the entropy if asked for.

    What is not scored costs nothing but for what is left of a chunk: scored positions go first.

    Args:
        is_scored: Positions to score, 0 elsewhere; all if None.
    """
    (R, T, D), head_VD = hidden.shape, model.head_matrix
    parts = _parts(R)
    N = R // parts * T  # positions of a part
    room = model.compute.tokens_at_once(len(head_VD))
    is_kept = room >= R * T  # all logits at once, for the gradient too
    chunks = min(-(-R * T // room), N)
    if is_scored is not None:
        chunks = max(chunks, min(CHUNKS, N // POSITIONS))
    width = -(-N // chunks)
    spare = chunks * width - N
    hidden_PND, targets_PN = hidden.reshape(parts, N, D), targets.reshape(parts, N)
    is_needed_n, back_PN = jnp.ones(chunks, bool), None
    if is_scored is not None:
        is_scored_PN = is_scored.reshape(parts, N)
        order_PN = jnp.argsort(~is_scored_PN, axis=1)
        back_PN = jnp.argsort(order_PN, axis=1)
        hidden_PND = _rearranged(hidden_PND, order_PN, back_PN)
        targets_PN = jnp.take_along_axis(targets_PN, order_PN, axis=1)
        is_needed_n = jnp.arange(chunks) * width < is_scored_PN.sum(1).max()

    def to_chunks(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, spare)] + [(0, 0)] * (x.ndim - 2))
        x = x.reshape(parts, chunks, width, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(chunks, parts * width, *x.shape[3:])

    def from_chunks(x: Array) -> Array:
        x = x.reshape(chunks, parts, width).swapaxes(0, 1).reshape(parts, chunks * width)[:, :N]
        if back_PN is not None:
            found = jnp.take_along_axis(x, back_PN, axis=1)
            x = jnp.where(is_scored_PN, found, jnp.zeros_like(found))
        return x.reshape(R, T)

    found = head.scores(
        to_chunks(hidden_PND),
        head_VD,
        to_chunks(targets_PN),
        is_needed_n,
        temperature,
        with_entropy,
        is_kept,
    )
    return Scores(*jax.tree.map(from_chunks, found))


def _parts(rows: int) -> int:
    """How many groups of rows lie on devices of their own, by the mesh of `on_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    parts = mesh.size // mesh.shape.get("tensor", 1)
    return parts if rows % parts == 0 else 1


@jax.custom_vjp
def _rearranged(
    x: Float[Array, "P N D"], order: Int[Array, "P N"], back: Int[Array, "P N"]
) -> Float[Array, "P N D"]:
    """Rows in another order, whose gradients are gathered too, not added up."""
    return jax.vmap(lambda x, order: x[order])(x, order)


_rearranged.defvjp(
    lambda x, order, back: (_rearranged(x, order, back), (order, back)),
    lambda kept, dy: (_rearranged(dy, kept[1], kept[0]), None, None),
)
