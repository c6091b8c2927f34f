"""DeBERTa, versions 2 and 3, that scores texts (He et al., 2020, arXiv:2006.03654).

Attention is disentangled: besides query and key, a query is compared with the embedding of how far
the key is (c2p), and a key with that of how far the query is (p2c). Scores come from the state at
the first token of a text, [CLS].
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from rlft_jax.models.encoder import (
    ACTIVATIONS,
    Attention,
    Block,
    Embeddings,
    LayerNorm,
    same_text,
    score_first,
    stacked,
    through,
)
from rlft_jax.models.qwen2 import Compute, Embedding, Linear
from rlft_jax.texts import TextBatch


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a checkpoint fixes.

    Attributes:
        max_positions: Tokens of the longest text that it was made for; a limit only if
            `has_positions`.
        has_positions: Whether inputs have an embedding of their position.
        types: Sizes of the table of token types; 0 for none.
        max_distance: Tokens between query and key from which on distance makes no difference.
        buckets: Distances told apart in each direction, the far ones ever more coarsely; 0 tells
            all apart.
        terms: Which of c2p and p2c there are, in this order.
        has_shared_keys: Whether distances go through the projections of the tokens.
        normalises_distances: Whether their embeddings are normalised.
        conv_width: Tokens that the convolution beside the first layer sees; 0 for none.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    max_positions: int = 512
    has_positions: bool = False
    types: int = 0
    max_distance: int = 512
    buckets: int = 256
    terms: tuple[str, ...] = ("c2p", "p2c")
    has_shared_keys: bool = True
    normalises_distances: bool = True
    conv_width: int = 0
    conv_activation: str = "tanh"
    activation: str = "gelu"
    pooler_activation: str = "gelu"
    norm_epsilon: float = 1e-7

    @property
    def span(self) -> int:
        """Embedded distances in each direction."""
        return self.buckets or self.max_distance


def embedded_distances(a: Architecture, distances: np.ndarray) -> Int[np.ndarray, " M"]:
    """The row of the table of distances for each signed distance from key to query.

    >>> a = Architecture(1, 1, 1, 1, 1, max_distance=16, buckets=4)
    >>> embedded_distances(a, np.array([-20, -3, -2, -1, 0, 1, 2, 3, 15, 20]))
    array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7])
    """
    far = np.abs(distances)
    if a.buckets:
        near = a.buckets // 2
        # At float32, as transformers does, so that no distance falls into another bucket.
        share = np.log(np.maximum(far, near) / near, dtype=np.float32)
        share /= np.log((a.max_distance - 1) / near, dtype=np.float32)
        buckets = np.ceil(share * (near - 1)).astype(np.int64) + near
        far = np.where(far <= near, far, buckets)
    return np.clip(np.sign(distances) * far + a.span, 0, 2 * a.span - 1)


def skew(x: Float[Array, "*b T M"]) -> Float[Array, "*b T T"]:
    """Entry [i, j] is x[i, T - 1 - i + j], with M = 2 T: a band, read without a gather."""
    *rest, T, M = x.shape
    flat = x.reshape(*rest, T * M)[..., T - 1 : T - 1 + T * (M - 1)]
    return flat.reshape(*rest, T, M - 1)[..., :T]


class DisentangledAttention(Attention):
    """Attention to content and to distance; eq. 4, with distances as in section 3.1."""

    def __init__(self, a: Architecture, *, rngs: nnx.Rngs):
        super().__init__(a.width, a.heads, rngs=rngs)
        self.scale /= math.sqrt(1 + len(a.terms))
        self.architecture = a
        own = lambda term: term in a.terms and not a.has_shared_keys
        linear = lambda: Linear(a.width, a.width, use_bias=True, rngs=rngs)
        self.distance_k = linear() if own("c2p") else None
        self.distance_q = linear() if own("p2c") else None

    def bias(
        self,
        q: Float[Array, "R T N H"],
        k: Float[Array, "R T N H"],
        distances: Float[Array, "S D"],
    ) -> Float[Array, "R N T T"] | None:
        """Scores of distances. A distance is the same all along a diagonal, so there are 2 T."""
        R, T, N, H = q.shape
        ahead = np.arange(2 * T) - (T - 1)  # of column m, before `skew`
        terms = []
        for term in self.architecture.terms:
            is_c2p = term == "c2p"
            content, project = (
                (q, self.distance_k or self.k) if is_c2p else (k, self.distance_q or self.q)
            )
            rows = embedded_distances(self.architecture, -ahead if is_c2p else ahead)
            table_MNH = project(distances, None)[rows].reshape(2 * T, N, H)
            scores = jnp.einsum("rnh,mnh->nrm", content.reshape(R * T, N, H), table_MNH)
            square_NRTT = skew(scores.reshape(N, R, T, 2 * T))
            terms.append(square_NRTT if is_c2p else square_NRTT.swapaxes(-1, -2))
        return self.scale * sum(terms[1:], terms[0]).swapaxes(0, 1) if terms else None


class Convolution(nnx.Module):
    """What version 2 adds to the first layer: neighbours in a text, seen at once."""

    def __init__(self, a: Architecture, *, rngs: nnx.Rngs):
        self.activation = a.conv_activation
        shape = (a.conv_width, a.width, a.width)
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(a.width))
        self.norm = LayerNorm(a.width, epsilon=a.norm_epsilon)

    def __call__(
        self, x: Float[Array, "r D"], layer: Float[Array, "r D"], segments: Int[Array, "R T"]
    ) -> Float[Array, "r D"]:
        (R, T), (W, D, _) = segments.shape, self.kernel.shape
        beside = ((0, 0), (W // 2, W // 2))
        padded_x = jnp.pad(x.reshape(R, T, D), (*beside, (0, 0)))
        padded_segments = jnp.pad(segments, beside, constant_values=-1)
        taps = []
        for tap in range(W):
            is_same = padded_segments[:, tap : tap + T] == segments
            taps.append(jnp.where(is_same[..., None], padded_x[:, tap : tap + T], 0))
        seen = jnp.concatenate(taps, -1).reshape(R * T, W * D)
        y = seen @ self.kernel.astype(x.dtype).reshape(W * D, D)
        y = ACTIVATIONS[self.activation](y + self.bias.astype(x.dtype)[None])
        return self.norm(layer + y)


class DeBERTa(nnx.Module):
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
            positions=a.max_positions if a.has_positions else 0,
            types=a.types,
            epsilon=a.norm_epsilon,
            rngs=rngs,
        )
        self.distances = Embedding(2 * a.span, a.width, rngs=rngs)
        norm = LayerNorm(a.width, epsilon=a.norm_epsilon)
        self.distance_norm = norm if a.normalises_distances else None
        block = lambda rngs: Block(
            DisentangledAttention(a, rngs=rngs),
            a.width,
            a.feed_forward,
            activation=a.activation,
            epsilon=a.norm_epsilon,
            rngs=rngs,
        )
        self.layers = stacked(block, a.layers, rngs=rngs)
        self.conv = Convolution(a, rngs=rngs) if a.conv_width else None
        self.pooler = Linear(a.width, a.width, use_bias=True, rngs=rngs)
        self.score = Linear(a.width, 1, use_bias=True, rngs=rngs)

    def scores(self, batch: TextBatch) -> Float[Array, "P G"]:
        """Returns a float32 score for every text of a micro-batch."""
        distances = self.distances.embedding[...]
        if self.distance_norm is not None:
            distances = self.distance_norm(distances)
        context = (same_text(batch.segments), distances.astype(self.compute.dtype))
        x = self.embed(batch, self.compute.dtype)
        if self.conv is None:
            x = through(self.layers, x, *context, compute=self.compute)
        else:
            first = through(self.layers, x, *context, compute=self.compute, which=slice(1))
            x = self.conv(x, first, batch.segments)
            x = through(self.layers, x, *context, compute=self.compute, which=slice(1, None))
        return score_first(batch, x, self.pooler, self.score, self.architecture.pooler_activation)
