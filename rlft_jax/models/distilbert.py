"""DistilBERT that scores texts (Sanh et al., 2019, arXiv:1910.01108).

It knows no token types. Scores come from the state at the first token of a text, [CLS].
"""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from rlft_jax.models.encoder import (
    Attention,
    Block,
    Embeddings,
    same_text,
    score_first,
    stacked,
    through,
)
from rlft_jax.models.qwen2 import Compute, Linear
from rlft_jax.texts import TextBatch

EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a checkpoint fixes.

    Attributes:
        max_positions: Tokens of the longest text that it can read.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    max_positions: int = 512
    activation: str = "gelu"


class DistilBERT(nnx.Module):
    """The encoder and its head."""

    def __init__(
        self, architecture: Architecture, *, compute: Compute | None = None, rngs: nnx.Rngs
    ):
        self.architecture = architecture
        self.compute = compute or Compute()
        a = architecture
        self.embed = Embeddings(
            a.width,
            tokens=a.vocabulary,
            positions=a.max_positions,
            types=0,
            epsilon=EPSILON,
            rngs=rngs,
        )
        block = lambda rngs: Block(
            Attention(a.width, a.heads, rngs=rngs),
            a.width,
            a.feed_forward,
            activation=a.activation,
            epsilon=EPSILON,
            rngs=rngs,
        )
        self.layers = stacked(block, a.layers, rngs=rngs)
        self.pooler = Linear(a.width, a.width, use_bias=True, rngs=rngs)
        self.score = Linear(a.width, 1, use_bias=True, rngs=rngs)

    def scores(self, batch: TextBatch) -> Float[Array, "P G"]:
        """Returns a float32 score for every text of a micro-batch."""
        x = self.embed(batch, self.compute.dtype)
        x = through(self.layers, x, same_text(batch.segments), compute=self.compute)
        return score_first(batch, x, self.pooler, self.score, "relu")
