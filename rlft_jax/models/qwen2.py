"""Qwen2 and Qwen2.5: a decoder with grouped-query attention, rotary positions and SwiGLU.

Qwen Team (2024, arXiv:2412.15115). Layers are stacked: every parameter of `layers` has a first
axis L, and the forward pass scans over it. Parameters stay in the type they were made in
(float32 masters by default); arithmetic is done in `compute.dtype`.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from rlft_jax.models import head
from rlft_jax.models.attention import Attend, Form, attention, prompts_of
from rlft_jax.models.lora import LoRA
from rlft_jax.models.products import flipped_product, product

Rotation = tuple[Array, Array]
Dtype = Literal["float32", "bfloat16"]


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
        unroll: Layers per iteration of the scan; 0 unrolls all of them, which compiles longer. If
            None, all of them on CPUs, where that is faster, unless something is computed again:
            unrolled, XLA would find what is there twice. 1 elsewhere.
        remat: What the backward pass computes again: nothing, everything but the matrix
            products, or all of a layer.
        attention: How tokens of a row attend to each other: what suits the devices if "auto";
            "xla", few large products; "blockwise", a block of scores after another; "cudnn" on
            NVIDIA's GPUs; "splash" on TPUs. A policy's; encoders have their own.
        head_chunk: The most tokens that a device unembeds at once. The head's memory is about 3 x
            head_chunk x V floats and two of its gradient, whatever the batch, and in bfloat16 a
            copy of it. Larger chunks are faster; logits of a device's tokens, if no more, are kept
            for the gradient. If None, as many as have logits of 512 MiB on CPUs, and of 2 GiB
            elsewhere; 256 for least memory.
    """

    dtype: Dtype = "float32"
    unroll: int | None = None
    remat: Literal["none", "dots", "full"] = "none"
    attention: Form = "auto"
    head_chunk: int | None = None

    def layers_at_once(self, layers: int) -> int:
        """Layers per iteration of a scan over so many."""
        unroll = self.unroll
        if unroll is None:
            unroll = 0 if jax.default_backend() == "cpu" and self.remat == "none" else 1
        return max(unroll or layers, 1)

    def tokens_at_once(self, vocabulary: int) -> int:
        """Tokens that a device unembeds at once into so many logits each."""
        if self.head_chunk is not None:
            return self.head_chunk
        room = LOGITS_BYTES.get(jax.default_backend(), LARGE_LOGITS_BYTES)
        return max(room // (4 * vocabulary), 1)


# Of the logits that exist at once, where no setting says how many.
LOGITS_BYTES = {"cpu": 512 << 20}
LARGE_LOGITS_BYTES = 2 << 30

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Linear(nnx.Module):
    """`x @ kernel + bias`, plus an adapter where one was attached.

    Callers flatten rows and tokens to one axis: the gradient of a product with two axes to sum
    over is four times slower on XLA:CPU.

    Attributes:
        is_flipped: Whether the kernel is there as `[d_out, d_in]`, as decoding wants it.
    """

    def __init__(self, d_in: int, d_out: int, *, use_bias: bool, rngs: nnx.Rngs):
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), (d_in, d_out)))
        self.bias = nnx.Param(jnp.zeros(d_out)) if use_bias else None
        self.lora: LoRA | None = nnx.data(None)
        self.is_flipped = False

    def __call__(self, x: Float[Array, "r d"], key: Key[Array, ""] | None) -> Array:
        y = (flipped_product if self.is_flipped else product)(x, self.kernel[...])
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

    @property
    def key_bias(self) -> Float[Array, "*L KH"]:
        """What keys have in common, before they are rotated."""
        assert self.k.bias is not None
        return self.k.bias[...]

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
        y = gated(self.gate(flat, keys[0]), self.up(flat, keys[1]))
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
        starts: Int[Array, "R S"] | None = None,
        prompt_starts: Int[Array, "R T"] | None = None,
    ) -> Float[Array, "R T D"]:
        """Returns the last normalised states; tokens see those before them in their segment.

        Args:
            segments: Which tokens belong together, side by side; all of a row if left out.
            positions: Of each token in its text, of which its segment is all or the end; in its
                row if left out.
            starts: Where the segments of a row begin, and T where there are no more. Only some
                kernels (`attention.Form`) are faster where they know.
            prompt_starts: Where the text of each token begins in its row. A segment whose
                positions do not begin at 0 sees the first tokens of that text, too.
        """
        return self._forward(tokens, segments, positions, starts, prompt_starts)[0]

    def prefill(
        self, tokens: Int[Array, "R T"], segments: Int[Array, "R T"], positions: Int[Array, "R T"]
    ) -> tuple[Float[Array, "R T D"], tuple[Float[Array, "L R T K H"], Float[Array, "L R T K H"]]]:
        """Returns what `hidden` does, and every layer's keys and values.

        Args:
            segments: 1 for the tokens of a row's one prompt, 0 for padding before or after it.
        """
        begins = jnp.argmax(segments > 0, axis=1).astype(jnp.int32)
        starts = jnp.stack([jnp.zeros_like(begins), begins], axis=1)
        return self._forward(tokens, segments, positions, starts, with_kv=True)

    def embedded(self, tokens: Int[Array, "*r"]) -> Float[Array, "*r D"]:
        """Returns the first layer's input."""
        return self.embed.embedding[...][tokens].astype(self.compute.dtype)

    def unembed(self, hidden: Float[Array, "*r D"]) -> Float[Array, "*r V"]:
        """Returns float32 logits of the next token; mind their size."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        return head.logits(flat, self.head_matrix).reshape(*hidden.shape[:-1], -1)

    @property
    def head_matrix(self) -> Float[Array, "V D"]:
        """What hidden states are multiplied by."""
        return (self.head or self.embed).embedding[...]

    def blocks(self) -> list[Block]:
        """The layers one by one, for loops that keep a cache per layer."""
        graph, stacked = nnx.split(self.layers)
        at = lambda i: jax.tree.map(lambda x: x[i], stacked)
        return [nnx.merge(graph, at(i)) for i in range(self.architecture.layers)]

    def rotation(self, positions: Int[Array, "*r T"]) -> Rotation:
        """Cosines and sines of the rotary embedding at `positions`."""
        return rotary(positions, self.architecture.head_width, self.architecture.rope_theta)

    def _forward(
        self, tokens, segments, positions, starts, prompt_starts=None, *, with_kv: bool = False
    ) -> tuple[Array, Any]:
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        compute = self.compute
        prompts = None
        if prompt_starts is not None:
            prompts = prompts_of(segments, positions, prompt_starts)
        attend_rows = attention(
            compute.attention,
            segments,
            shape=tokens.shape,
            dtype=compute.dtype,
            starts=starts,
            prompts=prompts,
        )
        rotation = self.rotation(positions)
        graph, stacked = nnx.split(self.layers)

        def layer(x, params_and_key):
            params, key = params_and_key
            kv = None

            def attend(q, k, v):
                nonlocal kv
                kv = (k, v) if with_kv else None
                return attend_rows(q, k, v)

            x = nnx.merge(graph, params)(x, rotation, attend, key)
            return x, kv

        if self.compute.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT_POLICIES[self.compute.remat])
        L, key = self.architecture.layers, self.dropout_key
        keys = None if key is None else jax.random.split(key, L)
        unroll = compute.layers_at_once(L)
        x, kv = jax.lax.scan(layer, self.embedded(tokens), (stacked, keys), unroll=unroll)
        return self.norm(x), kv


def rotary(positions: Int[Array, "*r T"], head_width: int, theta: float) -> Rotation:
    """Cosines and sines, `[*r, T, 1, H / 2]` (Su et al., 2021, arXiv:2104.09864)."""
    frequencies = theta ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    angles = positions[..., None, None].astype(jnp.float32) * _spread(frequencies, positions, 2)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "*r T N H"], rotation: Rotation) -> Float[Array, "*r T N H"]:
    """Rotates the two halves of each head against each other, in float32."""
    # Halves are an axis to be flipped: one pass over memory, where joining them would be several.
    cos, sin = (x[..., None, :] for x in rotation)
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
    turned = halves * cos + jnp.flip(halves, -2) * jnp.concatenate([-sin, sin], axis=-2)
    return turned.reshape(x.shape).astype(x.dtype)


@jax.custom_vjp
def gated(gate: Float[Array, "r F"], up: Float[Array, "r F"]) -> Float[Array, "r F"]:
    """`silu(gate) * up`; its gradient keeps nothing but the two."""
    gate32 = gate.astype(jnp.float32)
    return (gate32 * jax.nn.sigmoid(gate32) * up.astype(jnp.float32)).astype(gate.dtype)


def _gated_backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    gate, up, dy32 = (x.astype(jnp.float32) for x in (*kept, dy))
    share = jax.nn.sigmoid(gate)
    to_gate = dy32 * up * share * (1 + gate * (1 - share))
    return to_gate.astype(dy.dtype), (dy32 * gate * share).astype(dy.dtype)


gated.defvjp(lambda gate, up: (gated(gate, up), (gate, up)), _gated_backward)


def _spread(vector: Float[Array, " d"], like: Array, extra: int = 0) -> Array:
    """A vector with leading axes of size 1, to meet `like` without rank promotion."""
    return vector.reshape((1,) * (like.ndim - 1 + extra) + vector.shape)
