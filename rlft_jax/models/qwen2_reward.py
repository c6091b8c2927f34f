"""Qwen2 that scores texts, with one number in place of the next token's logits."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rlft_jax.models.qwen2 import Architecture, Compute, Linear, Qwen2
from rlft_jax.texts import TextBatch


class Qwen2Reward(Qwen2):
    """The decoder and its head, which reads the last token of a text, whichever that is.

    transformers reads the last token that is not padding by its id, so there a text that ends in
    the padding token is read too early.
    """

    def __init__(
        self, architecture: Architecture, *, compute: Compute | None = None, rngs: nnx.Rngs
    ):
        assert architecture.tied, "a scoring model has no head over tokens"
        super().__init__(architecture, compute=compute, rngs=rngs)
        self.score = Linear(architecture.width, 1, use_bias=False, rngs=rngs)

    def scores(self, batch: TextBatch) -> Float[Array, "P G"]:
        """Returns a float32 score for every text of a micro-batch."""
        hidden_RTD = self.hidden(
            batch.tokens, batch.segments, batch.positions, batch.starts, batch.prompt_starts
        )
        last_PGD = batch.last(hidden_RTD).astype(jnp.float32)
        P, G, D = last_PGD.shape
        return self.score(last_PGD.reshape(P * G, D), None).reshape(P, G)
