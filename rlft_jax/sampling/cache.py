"""How the cache keeps keys and values: as they are, or as 8-bit integers with scales.

Keys lie as `[R, K, H, C]` and values as `[R, K, C, H]`, where products want them. In 8 bits every
token has a scale for each head, its largest magnitude over 127. A token is rounded once, when it is
read, and so even its own chunk sees it: chunks change no result. The projection of Qwen's keys has
a bias that is so large in a few channels that 8 bits would round away the rest. So keys are kept
without it, and what it adds to their scores, turned to their positions, is added when they are
read.
"""

import functools
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from rlft_jax.models.qwen2 import Architecture, Rotation, rotate

CacheDtype = Literal["int8"]
LARGEST = 127
SCALE_BYTES = 4

_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class Quantised(NamedTuple):
    """Numbers that are each `integers * scales`, within half a scale.

    Attributes:
        scales: Of size 1 along H, so that both have their columns on the same axis.
    """

    integers: Int8[Array, "R K x y"]
    scales: Float[Array, "R K x y"]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the numbers."""
        return self.integers.shape


Kept = Float[Array, "R K _ _"] | Quantised


def kept_keys(
    keys: Float[Array, "R T K H"],
    bias: Float[Array, " KH"],
    rotation: Rotation,
    dtype: CacheDtype | None,
) -> Kept:
    """What the cache keeps of keys; in 8 bits it knows what bias and rotation went into them."""
    if dtype is not None:
        rounded = bias.astype(keys.dtype)  # as the projection adds it
        keys = keys.astype(jnp.float32) - _turned(rounded, rotation, keys.shape)
    return _kept(jnp.transpose(keys, (0, 2, 3, 1)), dtype, axis=2)


def kept_values(values: Float[Array, "R T K H"], dtype: CacheDtype | None) -> Kept:
    """What the cache keeps of values."""
    return _kept(jnp.transpose(values, (0, 2, 1, 3)), dtype, axis=3)


def scored(
    q: Float[Array, "R K n H"], keys: Kept, bias: Float[Array, " KH"], rotation: Rotation
) -> Float[Array, "R K n c"]:
    """Products of queries with every key; bias and rotation are those of `kept_keys`."""
    if not isinstance(keys, Quantised):
        return _dot("rknh,rkhc->rknc", q, keys)
    _, K, H, c = keys.shape
    turned = _turned(bias, rotation, (len(rotation[0]), c, K, H))
    products = _dot("rknh,rkhc->rknc", q, _after(q, keys.integers).astype(q.dtype))
    # In full float32, or it would not make up for what `kept_keys` took away.
    added = _dot("rknh,rckh->rknc", q.astype(jnp.float32), turned, precision="highest")
    return products * keys.scales + added


def summed(
    weights: Float[Array, "R K n c"], values: Kept, dtype: jnp.dtype
) -> Float[Array, "R K n H"]:
    """Sums of values by weight, with operands of this type."""
    if isinstance(values, Quantised):
        weights = weights * jnp.swapaxes(values.scales, 2, 3)
        values = _after(weights, values.integers).astype(dtype)
    return _dot("rknc,rkch->rknh", weights.astype(dtype), values)


def token_bytes(a: Architecture, dtype: CacheDtype | None, *, width: int) -> int:
    """Bytes that the cache keeps of one token.

    Args:
        a: Sizes of the model.
        dtype: What the cache keeps.
        width: Bytes of a number in the type of the arithmetic.
    """
    head = a.head_width * width if dtype is None else a.head_width + SCALE_BYTES
    return 2 * a.layers * a.kv_heads * head


def _kept(x: Float[Array, "R K x y"], dtype: CacheDtype | None, *, axis: int) -> Kept:
    if dtype is None:
        return x
    x32 = x.astype(jnp.float32)
    scales = jnp.abs(x32).max(axis, keepdims=True) / LARGEST
    scales = jnp.maximum(scales, jnp.finfo(jnp.float32).tiny)  # where all numbers are 0
    return Quantised(jnp.round(x32 / scales).astype(jnp.int8), scales)


def _turned(bias: Float[Array, " KH"], rotation: Rotation, shape: tuple[int, ...]) -> Array:
    """What a bias is in keys of shape `[r, T, K, H]`."""
    bias = bias.astype(jnp.float32).reshape(1, 1, *shape[2:])
    return rotate(jnp.broadcast_to(bias, shape), rotation)


def _after(x: Float[Array, "R K n y"], integers: Int8[Array, "R K a b"]) -> Int8[Array, "R K a b"]:
    """The same integers, which XLA does not widen before `x` is there.

    It would widen those of all layers before a chunk begins, and need more memory than they save:
    on CPUs it does so across an `optimization_barrier`.
    """
    is_nan = x[:, :1, :1, :1] != x[:, :1, :1, :1]
    return integers ^ is_nan.astype(jnp.int8)
