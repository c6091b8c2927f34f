"""What encoders share: layers that normalise what they have added, over packed texts.

Devlin et al. (2019, arXiv:1810.04805). Rows and tokens are one axis throughout: R rows of T tokens
are r = R T vectors. A token sees its own text only, so texts in one row score as in rows of
their own.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rlft_jax.models.qwen2 import REMAT_POLICIES, Compute, Embedding, Linear
from rlft_jax.texts import TextBatch

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


class LayerNorm(nnx.Module):
    """Normalisation of mean and variance in float32 (Ba et al., 2016, arXiv:1607.06450)."""

    def __init__(self, width: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "r D"]) -> Float[Array, "r D"]:
        x32 = x.astype(jnp.float32)
        x32 = x32 - x32.mean(-1, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.epsilon)
        return (x32 * self.scale[...][None] + self.bias[...][None]).astype(x.dtype)


class Embeddings(nnx.Module):
    """A vector per token, plus one per position and one per type where there are any."""

    def __init__(
        self, width: int, *, tokens: int, positions: int, types: int, epsilon: float, rngs: nnx.Rngs
    ):
        table = lambda size: Embedding(size, width, rngs=rngs) if size else None
        self.tokens, self.positions, self.types = table(tokens), table(positions), table(types)
        self.norm = LayerNorm(width, epsilon=epsilon)

    def __call__(self, batch: TextBatch, dtype: str) -> Float[Array, "r D"]:
        tables = (self.tokens, self.positions, self.types)
        ids = (batch.tokens, batch.positions, batch.types)
        vectors = [
            t.embedding[...][i.ravel()] for t, i in zip(tables, ids, strict=True) if t is not None
        ]
        return self.norm(sum(vectors[1:], vectors[0])).astype(dtype)


class Attention(nnx.Module):
    """Attention in both directions, within a text."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.scale = 1 / math.sqrt(width // heads)
        self.q = Linear(width, width, use_bias=True, rngs=rngs)
        self.k = Linear(width, width, use_bias=True, rngs=rngs)
        self.v = Linear(width, width, use_bias=True, rngs=rngs)
        self.o = Linear(width, width, use_bias=True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "r D"], mask: Bool[Array, "R 1 T T"], *context: Any
    ) -> Float[Array, "r D"]:
        R, _, T, _ = mask.shape
        q, k, v = (f(x, None).reshape(R, T, self.heads, -1) for f in (self.q, self.k, self.v))
        bias = self.bias(q, k, *context)
        y = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=self.scale)
        return self.o(y.reshape(x.shape), None)

    def bias(
        self, q: Float[Array, "R T N H"], k: Float[Array, "R T N H"], *context: Any
    ) -> Float[Array, "R N T T"] | None:
        """What is added to the scaled scores of queries and keys."""
        return None


class MLP(nnx.Module):
    """Two dense layers."""

    def __init__(self, width: int, feed_forward: int, *, activation: str, rngs: nnx.Rngs):
        self.activation = activation
        self.up = Linear(width, feed_forward, use_bias=True, rngs=rngs)
        self.down = Linear(feed_forward, width, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "r D"]) -> Float[Array, "r D"]:
        return self.down(ACTIVATIONS[self.activation](self.up(x, None)), None)


class Block(nnx.Module):
    """One layer around an attention."""

    def __init__(
        self,
        attention: Attention,
        width: int,
        feed_forward: int,
        *,
        activation: str,
        epsilon: float,
        rngs: nnx.Rngs,
    ):
        self.attention = attention
        self.attention_norm = LayerNorm(width, epsilon=epsilon)
        self.mlp = MLP(width, feed_forward, activation=activation, rngs=rngs)
        self.mlp_norm = LayerNorm(width, epsilon=epsilon)

    def __call__(self, x: Float[Array, "r D"], *context: Any) -> Float[Array, "r D"]:
        x = self.attention_norm(x + self.attention(x, *context))
        return self.mlp_norm(x + self.mlp(x))


def stacked(make: Callable[[nnx.Rngs], Block], layers: int, *, rngs: nnx.Rngs) -> Block:
    """Layers as one, every parameter with a first axis L."""
    keys = jax.random.split(rngs.params(), layers)
    return nnx.vmap(lambda key: make(nnx.Rngs(key)), in_axes=0)(keys)


def through(
    layers: Block,
    x: Float[Array, "r D"],
    *context: Any,
    compute: Compute,
    which: slice = slice(None),
) -> Float[Array, "r D"]:
    """Passes `x` through stacked layers, or through those that `which` says."""
    graph, params = nnx.split(layers)
    params = jax.tree.map(lambda p: p[which], params)
    count = len(jax.tree.leaves(params)[0])

    def layer(x: Array, params: Any) -> tuple[Array, None]:
        return nnx.merge(graph, params)(x, *context), None

    if compute.remat != "none":
        layer = jax.checkpoint(layer, policy=REMAT_POLICIES[compute.remat])
    return jax.lax.scan(layer, x, params, unroll=compute.layers_at_once(count))[0]


def same_text(segments: Int[Array, "R T"]) -> Bool[Array, "R 1 T T"]:
    """Which token sees which."""
    return (segments[:, :, None] == segments[:, None, :])[:, None]


def score_first(
    batch: TextBatch, states: Float[Array, "r D"], pooler: Linear, score: Linear, activation: str
) -> Float[Array, "P G"]:
    """The score of every text by the state at its first token, in float32."""
    R, T = batch.tokens.shape
    first_PGD = batch.first(states.reshape(R, T, -1)).astype(jnp.float32)
    P, G, D = first_PGD.shape
    pooled = ACTIVATIONS[activation](pooler(first_PGD.reshape(P * G, D), None))
    return score(pooled, None).reshape(P, G)
