"""Causal attention on TPUs, by the splash kernels that JAX has in Pallas."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LANES = 128  # of a TPU; blocks are multiples of it
BLOCKS = (512, 256, 128)


def attention(
    segments: Int[Array, "R T"] | None, *, interpret: bool = False
) -> tuple[Callable[..., Float[Array, "R T N H"]], tuple[Array, ...]]:
    """Returns a kernel of queries, keys, values and rows, and what it needs to know of the rows.

    Args:
        segments: Which tokens belong together; None if all of a row do.
        interpret: Whether to run the kernel step by step where there is no TPU, for tests.
    """

    def kernel(q: Array, k: Array, v: Array, *rows: Int[Array, "R T"]) -> Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

        _, T, N, H = q.shape
        spare = -T % LANES
        # What fills up the last block comes after all tokens, so none of them sees it.
        heads_first = lambda x: jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, spare), (0, 0)))
        q, k, v = (heads_first(x) for x in (q * H**-0.5, k, v))
        attend = jax.vmap(splash(N, T + spare, interpret=interpret))
        if rows:
            ids = jnp.pad(rows[0], ((0, 0), (0, spare)), constant_values=-1)
            y_RNTH = attend(q, k, v, SegmentIds(ids, ids))
        else:
            y_RNTH = attend(q, k, v)
        return y_RNTH[:, :, :T].swapaxes(1, 2)

    return kernel, () if segments is None else (segments,)


def splash(heads: int, tokens: int, *, interpret: bool = False) -> Callable[..., Any]:
    """The kernel for one row: queries `[N, T, H]`, keys and values `[K, T, H]`, segments if any."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    block = next(size for size in BLOCKS if tokens % size == 0)
    sizes = splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    causal = splash_attention.CausalMask((tokens, tokens))
    return splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([causal] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
