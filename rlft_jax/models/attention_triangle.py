"""Causal attention of plain XLA for rows that are not long: few blocks of queries, no loop.

A block of queries meets all keys up to its last token in one product, so that almost half of the
scores are never made, and the program has the few large products that compilers are good at. The
way back computes a block's weights again; XLA's CPU backend, where layers are unrolled, does so
early and keeps the scores of all layers, for 4% of a step's time. Keys and values are never
repeated for the queries that share them.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlft_jax.models.attention_blockwise import MASKED, Prompts

# Tokens of a block, unless that makes too many of them: a program's size grows with their number.
BLOCK, MOST_BLOCKS = 64, 8
Masks = tuple[Bool[Array, "R 1 1 _ _"], ...]


def blocks(tokens: int) -> Iterator[tuple[int, int]]:
    """Where blocks of queries begin and end.

    >>> list(blocks(150))
    [(0, 64), (64, 128), (128, 150)]
    """
    size = max(BLOCK, -(-tokens // MOST_BLOCKS))
    return ((begin, min(begin + size, tokens)) for begin in range(0, tokens, size))


def attention(
    segments: Int[Array, "R T"], prompts: Prompts | None = None
) -> Callable[[Array, Array, Array], Array]:
    """Returns attention of queries `[R, T, N, H]` to keys and values `[R, T, K, H]`.

    Args:
        prompts: Earlier places that tokens see beside their own segment, from and to.
    """
    T = segments.shape[1]
    places = jnp.arange(T)
    masks = []
    for begin, end in blocks(T):
        key_1k, own_q1 = places[None, :end], places[begin:end, None]
        is_seen_Rqk = segments[:, begin:end, None] == segments[:, None, :end]
        is_seen_Rqk &= (key_1k <= own_q1)[None]
        if prompts is not None:
            first, last = (x[:, begin:end, None] for x in prompts)
            is_seen_Rqk |= (key_1k[None] >= first) & (key_1k[None] < last)
        masks.append(is_seen_Rqk[:, None, None])

    def attend(
        q: Float[Array, "R T N H"], k: Float[Array, "R T K H"], v: Float[Array, "R T K H"]
    ) -> Float[Array, "R T N H"]:
        R, T, N, H = q.shape
        K = k.shape[2]
        q_RKGTH = jnp.transpose(q.reshape(R, T, K, N // K, H), (0, 2, 3, 1, 4))
        k_RKTH, v_RKTH = (jnp.swapaxes(x, 1, 2) for x in (k, v))
        y_RKGTH = _attention(q_RKGTH, k_RKTH, v_RKTH, tuple(masks))
        return jnp.transpose(y_RKGTH, (0, 3, 1, 2, 4)).reshape(q.shape)

    return attend


@jax.custom_vjp
def _attention(q: Array, k: Array, v: Array, masks: Masks) -> Array:
    return _forward(q, k, v, masks)[0]


def _flat(x: Float[Array, "R K G q x"]) -> Float[Array, "R K r x"]:
    """One axis for all queries that share keys."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _scores(
    q: Float[Array, "R K G q H"], k: Float[Array, "R K k H"], mask: Bool[Array, "R 1 1 q k"]
) -> Float[Array, "R K G q k"]:
    scores_RKrk = jnp.einsum("RKrH,RKkH->RKrk", _flat(q), k, preferred_element_type=jnp.float32)
    scale = 1 / np.sqrt(q.shape[-1])
    return jnp.where(mask, scores_RKrk.reshape(*q.shape[:-1], -1) * scale, MASKED)


def _forward(q: Array, k: Array, v: Array, masks: Masks) -> tuple[Array, tuple]:
    found, log_totals = [], []
    for (begin, end), mask in zip(blocks(q.shape[3]), masks):
        scores_RKGqk = _scores(q[:, :, :, begin:end], k[:, :, :end], mask)
        top = scores_RKGqk.max(-1, keepdims=True)  # of every query, since each sees itself
        weights_RKGqk = jnp.exp(scores_RKGqk - top)
        total = weights_RKGqk.sum(-1, keepdims=True)
        y_RKrH = jnp.einsum(
            "RKrk,RKkH->RKrH",
            _flat(weights_RKGqk).astype(v.dtype),
            v[:, :, :end],
            preferred_element_type=jnp.float32,
        )
        found.append(y_RKrH.reshape(*top.shape[:-1], -1) / total)
        log_totals.append(top + jnp.log(total))
    y = jnp.concatenate(found, axis=3).astype(q.dtype)
    return y, (q, k, v, masks, y, log_totals)


def _backward(kept: tuple, dy: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, masks, y, log_totals = kept
    dot = lambda form, *xs: jnp.einsum(form, *xs, preferred_element_type=jnp.float32)
    mean = jnp.sum(y.astype(jnp.float32) * dy.astype(jnp.float32), -1, keepdims=True)
    dq, dk, dv = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for (begin, end), mask, log_total in zip(blocks(q.shape[3]), masks, log_totals):
        q_i, dy_i = q[:, :, :, begin:end], dy[:, :, :, begin:end]
        weights_RKGqk = jnp.exp(_scores(q_i, k[:, :, :end], mask) - log_total)
        slopes_RKrk = dot("RKrH,RKkH->RKrk", _flat(dy_i), v[:, :, :end])
        slopes_RKGqk = slopes_RKrk.reshape(weights_RKGqk.shape) - mean[:, :, :, begin:end]
        slopes_RKGqk = weights_RKGqk * slopes_RKGqk / np.sqrt(q.shape[-1])
        slopes_RKrk = _flat(slopes_RKGqk).astype(q.dtype)
        dq_RKrH = dot("RKrk,RKkH->RKrH", slopes_RKrk, k[:, :, :end])
        dq.append(dq_RKrH.reshape(q_i.shape))
        dk = dk.at[:, :, :end].add(dot("RKrk,RKrH->RKkH", slopes_RKrk, _flat(q_i)))
        weights_RKrk = _flat(weights_RKGqk).astype(q.dtype)
        dv = dv.at[:, :, :end].add(dot("RKrk,RKrH->RKkH", weights_RKrk, _flat(dy_i)))
    dq = jnp.concatenate(dq, axis=3).astype(q.dtype)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None


_attention.defvjp(_forward, _backward)
