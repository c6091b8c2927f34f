"""Log-probabilities of given tokens: the one currency of all policy objectives.

This is the only place that shifts tokens against logits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft_jax.batch import Batch
from rlft_jax.models import head
from rlft_jax.models.head import Scores
from rlft_jax.models.qwen2 import Qwen2


def token_scores(
    model: Qwen2,
    batch: Batch,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Scores:
    """Scores each response token of a micro-batch given those before it in its text.

    Args:
        temperature: Logits are divided by it, as when sampling.
        with_entropy: Whether to compute entropies.
    """
    hidden_RTD = model.hidden(
        batch.tokens, batch.segments, batch.positions, batch.starts, batch.prompt_starts
    )
    # Scored where it was predicted; a text's first token was predicted by nothing.
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


def head_scores(
    model: Qwen2,
    hidden: Float[Array, "R T D"],
    targets: Int[Array, "R T"],
    is_scored: Bool[Array, "R T"],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Scores:
    """Scores of targets at the positions that ask for it; 0 elsewhere."""
    head_VD = model.head_matrix
    how = head.Settings(model.compute.tokens_at_once(len(head_VD)), temperature, with_entropy)
    return head.scores(hidden, head_VD, targets, is_scored, how)
