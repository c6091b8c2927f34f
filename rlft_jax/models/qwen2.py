"""Qwen2 and Qwen2.5: a decoder with grouped-query attention, rotary positions and SwiGLU.

Qwen Team (2024, arXiv:2412.15115). Layers are stacked: every parameter of `layers` has a first
axis L, and the forward pass scans over it. Parameters stay in the type they were made in
(float32 masters by default); arithmetic is done in `compute.dtype`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from rlft_jax.models.lora import LoRA

# Takes queries, keys and values of new tokens; returns what they attended to.
Attend = Callable[[Array, Array, Array], Array]
Rotation = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a checkpoint fixes: sizes and constants."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    head_width: int
    rope_theta: float = 1_000_000.0
    norm_epsilon: float = 1e-6
    tied: bool = True
    max_positions: int = 32_768


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """What a run chooses: how to compute, never what.

    Attributes:
        dtype: Type of activations and of the operands of matrix products, which accumulate
            in float32 at the head and in the norms. Parameters and optimizer stay in float32.
        unroll: Layers per iteration of the scan; 0 unrolls all of them, which compiles longer
            and runs faster on CPU.
        remat: What the backward pass computes again: nothing, everything but the matrix
            products, or all of a layer.
        head_chunk: Tokens to unembed at once. The head's memory is about 3 x head_chunk x V
            floats, whatever the batch; larger chunks are faster on GPUs.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = 1
    remat: Literal["none", "dots", "full"] = "none"
    head_chunk: int = 1024


REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Linear(nnx.Module):
    """`x @ kernel + bias`, plus an adapter where one was attached.

    Callers flatten rows and tokens to one axis: the gradient of a product with two axes to sum
    over is four times slower on XLA:CPU.
    """

    def __init__(self, d_in: int, d_out: int, *, use_bias: bool, rngs: nnx.Rngs):
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), (d_in, d_out)))
        self.bias = nnx.Param(jnp.zeros(d_out)) if use_bias else None
        self.lora: LoRA | None = nnx.data(None)

    def __call__(self, x: Float[Array, "r d"], key: Key[Array, ""] | None) -> Array:
        y = x @ self.kernel.astype(x.dtype)
        if self.bias is not None:
            y = y + _spread(self.bias.astype(x.dtype), y)
        return y if self.lora is None else y + self.lora(x, key)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation in float32 (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*r D"]) -> Float[Array, "*r D"]:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.epsilon)
        return (x32 * _spread(self.scale[...], x32)).astype(x.dtype)


class Embedding(nnx.Module):
    """A row of `embedding` per token; also the head, used the other way round."""

    def __init__(self, vocabulary: int, width: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (vocabulary, width)))


class Attention(nnx.Module):
    """Grouped-query attention; where keys and values are kept is up to `attend`."""

    def __init__(self, a: Architecture, *, rngs: nnx.Rngs):
        self.heads, self.kv_heads, self.head_width = a.heads, a.kv_heads, a.head_width
        q_width, kv_width = a.heads * a.head_width, a.kv_heads * a.head_width
        self.q = Linear(a.width, q_width, use_bias=True, rngs=rngs)
        self.k = Linear(a.width, kv_width, use_bias=True, rngs=rngs)
        self.v = Linear(a.width, kv_width, use_bias=True, rngs=rngs)
        self.o = Linear(q_width, a.width, use_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*r T D"], rotation: Rotation, attend: Attend, keys: list
    ) -> Float[Array, "*r T D"]:
        flat = x.reshape(-1, x.shape[-1])
        split = lambda y, heads: y.reshape(*x.shape[:-1], heads, self.head_width)
        q_RTNH = rotate(split(self.q(flat, keys[0]), self.heads), rotation)
        k_RTKH = rotate(split(self.k(flat, keys[1]), self.kv_heads), rotation)
        v_RTKH = split(self.v(flat, keys[2]), self.kv_heads)
        y_RTNH = attend(q_RTNH, k_RTKH, v_RTKH)
        return self.o(y_RTNH.reshape(len(flat), -1), keys[3]).reshape(x.shape)


class MLP(nnx.Module):
    """SwiGLU (Shazeer, 2020, arXiv:2002.05202)."""

    def __init__(self, a: Architecture, *, rngs: nnx.Rngs):
        self.gate = Linear(a.width, a.feed_forward, use_bias=False, rngs=rngs)
        self.up = Linear(a.width, a.feed_forward, use_bias=False, rngs=rngs)
        self.down = Linear(a.feed_forward, a.width, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "*r D"], keys: list) -> Float[Array, "*r D"]:
        flat = x.reshape(-1, x.shape[-1])
        y = jax.nn.silu(self.gate(flat, keys[0])) * self.up(flat, keys[1])
        return self.down(y, keys[2]).reshape(x.shape)


class Block(nnx.Module):
    """One layer."""

    def __init__(self, a: Architecture, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(a.width, epsilon=a.norm_epsilon)
        self.attention = Attention(a, rngs=rngs)
        self.mlp_norm = RMSNorm(a.width, epsilon=a.norm_epsilon)
        self.mlp = MLP(a, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*r T D"],
        rotation: Rotation,
        attend: Attend,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "*r T D"]:
        keys = [None] * 7 if key is None else list(jax.random.split(key, 7))
        x = x + self.attention(self.attention_norm(x), rotation, attend, keys[:4])
        return x + self.mlp(self.mlp_norm(x), keys[4:])


class Qwen2(nnx.Module):
    """The decoder.

    Attributes:
        dropout_key: Set it on a merged model to switch adapters' dropout on.
    """

    def __init__(self, architecture: Architecture, *, compute: Compute | None = None, rngs):
        self.architecture = architecture
        self.compute = compute or Compute()
        a = architecture
        self.embed = Embedding(a.vocabulary, a.width, rngs=rngs)
        make = nnx.vmap(lambda key: Block(a, rngs=nnx.Rngs(key)), in_axes=0)
        self.layers = make(jax.random.split(rngs.params(), a.layers))
        self.norm = RMSNorm(a.width, epsilon=a.norm_epsilon)
        self.head = nnx.data(None if a.tied else Embedding(a.vocabulary, a.width, rngs=rngs))
        self.dropout_key: Key[Array, ""] | None = nnx.data(None)

    def hidden(
        self,
        tokens: Int[Array, "R T"],
        segments: Int[Array, "R T"] | None = None,
        positions: Int[Array, "R T"] | None = None,
    ) -> Float[Array, "R T D"]:
        """Returns the last normalised states; tokens see those before them in their segment."""
        return self._forward(tokens, segments, positions, with_kv=False)[0]

    def prefill(
        self, tokens: Int[Array, "R T"], segments: Int[Array, "R T"], positions: Int[Array, "R T"]
    ) -> tuple[Float[Array, "R T D"], tuple[Float[Array, "L R T K H"], Float[Array, "L R T K H"]]]:
        """Returns what `hidden` does, and every layer's keys and values."""
        return self._forward(tokens, segments, positions, with_kv=True)

    def embedded(self, tokens: Int[Array, "*r"]) -> Float[Array, "*r D"]:
        """Returns the first layer's input."""
        return self.embed.embedding[...][tokens].astype(self.compute.dtype)

    def unembed(self, hidden: Float[Array, "*r D"]) -> Float[Array, "*r V"]:
        """Returns float32 logits of the next token; mind their size."""
        head = (self.head or self.embed).embedding.astype(self.compute.dtype)
        flat = hidden.reshape(-1, hidden.shape[-1])
        logits = jnp.einsum("rd,vd->rv", flat, head, preferred_element_type=jnp.float32)
        return logits.reshape(*hidden.shape[:-1], -1)

    def blocks(self) -> list[Block]:
        """The layers one by one, for loops that keep a cache per layer."""
        graph, stacked = nnx.split(self.layers)
        at = lambda i: jax.tree.map(lambda x: x[i], stacked)
        return [nnx.merge(graph, at(i)) for i in range(self.architecture.layers)]

    def rotation(self, positions: Int[Array, "*r T"]) -> Rotation:
        """Cosines and sines of the rotary embedding at `positions`."""
        return rotary(positions, self.architecture.head_width, self.architecture.rope_theta)

    def _forward(self, tokens, segments, positions, *, with_kv: bool) -> tuple[Array, Any]:
        T = tokens.shape[1]
        segments = jnp.ones_like(tokens) if segments is None else segments
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(T), tokens.shape)
        mask_R1TT = (segments[:, None, :, None] == segments[:, None, None, :]) & jnp.tri(
            T, dtype=bool
        )[None, None]
        rotation = self.rotation(positions)
        graph, stacked = nnx.split(self.layers)

        def layer(x, params_and_key):
            params, key = params_and_key
            kv = None

            def attend(q, k, v):
                nonlocal kv
                kv = (k, v) if with_kv else None
                return jax.nn.dot_product_attention(q, k, v, mask=mask_R1TT)

            x = nnx.merge(graph, params)(x, rotation, attend, key)
            return x, kv

        if self.compute.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT_POLICIES[self.compute.remat])
        L, key = self.architecture.layers, self.dropout_key
        keys = None if key is None else jax.random.split(key, L)
        unroll = self.compute.unroll or L
        x, kv = jax.lax.scan(layer, self.embedded(tokens), (stacked, keys), unroll=unroll)
        return self.norm(x), kv


def rotary(positions: Int[Array, "*r T"], head_width: int, theta: float) -> Rotation:
    """Cosines and sines, `[*r, T, 1, H / 2]` (Su et al., 2021, arXiv:2104.09864)."""
    frequencies = theta ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    angles = positions[..., None, None].astype(jnp.float32) * _spread(frequencies, positions, 2)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "*r T N H"], rotation: Rotation) -> Float[Array, "*r T N H"]:
    """Rotates the two halves of each head against each other, in float32."""
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _spread(vector: Float[Array, " d"], like: Array, extra: int = 0) -> Array:
    """A vector with leading axes of size 1, to meet `like` without rank promotion."""
    return vector.reshape((1,) * (like.ndim - 1 + extra) + vector.shape)
