"""Supervised fine-tuning: imitate the responses, token by token."""

import jax.numpy as jnp

from rlft_jax.batch import Batch
from rlft_jax.logprobs import token_scores
from rlft_jax.metrics import Mean, Metrics
from rlft_jax.models.qwen2 import Qwen2


def objective(model: Qwen2, batch: Batch, temperature: float = 1.0) -> Metrics:
    """Mean negative log-probability of the response tokens, over the whole optimiser step."""
    scores = token_scores(model, batch, temperature=temperature, with_entropy=True)
    return {
        "loss": Mean.of(-scores.logprobs, batch.is_response),
        "entropy": Mean.of(scores.entropy, batch.is_response),
        "mean_token_accuracy": Mean.of(scores.is_top.astype(jnp.float32), batch.is_response),
    }
