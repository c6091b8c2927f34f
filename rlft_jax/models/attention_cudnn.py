"""Causal attention on NVIDIA's GPUs, by the flash kernels of cuDNN; in half precision only.

Which tokens see each other in a packed row is told as where its responses begin. The kernels take
that from Hopper on; earlier GPUs, and callers that do not know it, get a mask `[R, 1, T, T]`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Kernel = Callable[..., Float[Array, "R T N H"]]


def attention(
    segments: Int[Array, "R T"] | None, starts: Int[Array, "R S"] | None
) -> tuple[Kernel, tuple[Array, ...]]:
    """Returns a kernel of queries, keys, values and rows, and what it needs to know of the rows.

    Args:
        segments: Which tokens belong together; None if all of a row do.
        starts: Where each response of a row begins, and T where there are no more; what follows
            belongs to the last one. One response a row needs no mask but the causal one.
    """
    if segments is None or (starts is not None and starts.shape[1] == 1):
        return _causal, ()
    if starts is None or not takes_packed_rows():
        return _masked, (segments,)
    return _packed, (starts,)


def takes_packed_rows() -> bool:
    """Whether the kernels of this GPU take rows of several segments."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "0.0")
    return tuple(map(int, str(capability).split("."))) >= (9, 0)


def _causal(q: Array, k: Array, v: Array) -> Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def _masked(q: Array, k: Array, v: Array, segments: Int[Array, "R T"]) -> Array:
    mask_R1TT = segments[:, None, :, None] == segments[:, None, None, :]
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask_R1TT, is_causal=True, implementation="cudnn"
    )


def _packed(q: Array, k: Array, v: Array, starts: Int[Array, "R S"]) -> Any:
    # JAX offers this nowhere in public; see its pull requests 25812 and 29731.
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    if jax.__version_info__ < (0, 12) and k.shape[2] < q.shape[2]:
        # Before, keys were looked for where those of as many heads as the queries have would be
        # (JAX's pull request 39521).
        k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    lengths, offsets = runs(starts, q.shape[1])
    return cudnn.dot_product_attention(
        q,
        k,
        v,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=q.shape[-1] ** -0.5,
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
    )


def runs(starts: Int[Array, "R S"], T: int) -> tuple[Int[Array, "R S"], Int[Array, "R S1"]]:
    """Lengths and places of a row's responses as cuDNN wants them: -1 where there are no more.

    >>> lengths, places = runs(jnp.array([[0, 5, 8], [0, 8, 8]]), 8)
    >>> lengths.tolist(), places.tolist()
    ([[5, 3, -1], [8, -1, -1]], [[0, 5, -1, -1], [0, -1, -1, -1]])
    """
    ends = jnp.pad(starts[:, 1:], ((0, 0), (0, 1)), constant_values=T)
    is_real = ends > starts
    lengths = jnp.where(is_real, ends - starts, -1)
    places = jnp.where(is_real, starts, -1)
    return lengths, jnp.pad(places, ((0, 0), (0, 1)), constant_values=-1)
