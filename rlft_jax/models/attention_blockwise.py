"""Causal attention in blocks, of plain XLA: for long rows where there is no kernel of the device's.

Scores exist for one block of queries against one block of keys, on the way forward and on the way
back, with a running softmax between blocks (Milakov and Gimelshein, 2018, arXiv:1805.02867; Dao
et al., 2022, arXiv:2205.14135). Blocks of keys that no query of a block may see are not visited:
those after it, and, in packed rows, those before the segment of its first token, or before the
prompt that this continues; what lies between a prompt and a response that shares it is. Keys and
values are never repeated for the queries that share them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Tokens of a block. Small ones stay in a CPU's caches; others were not measured.
BLOCKS = {"cpu": 64}
LARGE_BLOCK = 256
MASKED = -0.5 * float(np.finfo(np.float32).max)


# Places from and to in the rows.
Prompts: TypeAlias = tuple[Int[Array, "R T"], Int[Array, "R T"]]


class Runs(NamedTuple):
    """Which keys each query may see: those from the start of its segment up to itself.

    Attributes:
        starts: Place of the first token of each query's segment.
        first: The first block of keys that each block of queries sees, in any row.
        prompts: The places from the first to before the second are seen, too; None for none.
    """

    starts: Int[Array, "n R q"]
    first: Int[Array, " n"]
    prompts: tuple[Int[Array, "n R q"], Int[Array, "n R q"]] | None


def segment_starts(segments: Int[Array, "R T"]) -> Int[Array, "R T"]:
    """The place where each token's segment begins; a segment's tokens lie side by side.

    Padding sees itself alone, so that nobody computes what padding sees.
    """
    places = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    begins = (segments[:, 1:] != segments[:, :-1]) | (segments[:, 1:] == 0)
    return jax.lax.cummax(jnp.where(jnp.pad(begins, ((0, 0), (1, 0))), places, 0), axis=1)


def attention(
    segments: Int[Array, "R T"], prompts: Prompts | None = None, *, block: int | None = None
) -> Callable[[Array, Array, Array], Array]:
    """Returns attention of queries `[R, T, N, H]` to keys and values `[R, T, K, H]`.

    Args:
        prompts: Earlier places that tokens see beside their own segment, from and to.
        block: Queries, and keys, of a block; what suits the devices if left out.
    """
    block = block or BLOCKS.get(jax.default_backend(), LARGE_BLOCK)
    R, T = segments.shape
    n = -(-T // block)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, n * block - T)))
    to_blocks = lambda x: x.reshape(R, n, block).swapaxes(0, 1)
    starts = to_blocks(segment_starts(pad(segments)))
    runs = Runs(starts, starts[:, :, 0].min(axis=1) // block, None)
    if prompts is not None:
        begins, ends = (to_blocks(pad(x)) for x in prompts)
        earliest = jnp.where(begins < ends, begins, starts).min(axis=(1, 2))
        runs = Runs(starts, earliest // block, (begins, ends))

    def attend(
        q: Float[Array, "R T N H"], k: Float[Array, "R T K H"], v: Float[Array, "R T K H"]
    ) -> Float[Array, "R T N H"]:
        K = k.shape[2]
        y_nRKGqH = _attention(*(_blocks(x, n, block, K) for x in (q, k, v)), runs)
        y_RnqKGH = jnp.transpose(y_nRKGqH, (1, 0, 4, 2, 3, 5))
        return y_RnqKGH.reshape(R, n * block, *q.shape[2:])[:, :T]

    return attend


def _blocks(x: Float[Array, "R T N H"], n: int, block: int, K: int) -> Float[Array, "n R K G b H"]:
    """Blocks of tokens first, so that one block is one piece of memory."""
    R, T, N, H = x.shape
    x = jnp.pad(x, ((0, 0), (0, n * block - T), (0, 0), (0, 0)))
    return jnp.transpose(x.reshape(R, n, block, K, N // K, H), (1, 0, 3, 4, 2, 5))


def _at(blocks: Array, j: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(blocks, j, keepdims=False)


def _added(blocks: Array, j: Array, more: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(blocks, _at(blocks, j) + more, j, 0)


@jax.custom_vjp
def _attention(q: Array, k: Array, v: Array, runs: Runs) -> Array:
    return _forward(q, k, v, runs)[0]


def _scores(q: Array, k: Array, runs: Runs, i: Array, j: Array) -> Float[Array, "R K G q k"]:
    """Scores of block `i` of queries with block `j` of keys, in float32."""
    block, H = q.shape[-2:]
    s_RKGqk = jnp.einsum("RKGqH,RKkH->RKGqk", q, k[:, :, 0], preferred_element_type=jnp.float32)
    own = (i * block + jnp.arange(block))[None, :, None]
    key = (j * block + jnp.arange(block))[None, None, :]
    is_seen_Rqk = (key >= runs.starts[:, :, None]) & (key <= own)
    if runs.prompts is not None:
        begins, ends = (x[:, :, None] for x in runs.prompts)
        is_seen_Rqk |= (key >= begins) & (key < ends)
    return jnp.where(is_seen_Rqk[:, None, None], s_RKGqk / np.sqrt(H), MASKED)


def _forward(q: Array, k: Array, v: Array, runs: Runs) -> tuple[Array, Array]:
    """What queries attend to, and the logarithm of each one's sum of exponentials."""

    def of_queries(_, block: tuple[Any, ...]) -> tuple[None, tuple[Array, Array]]:
        i, q_i, runs_i = block

        def weigh(j: Array, top: Array | None) -> tuple[Array, Array, Array]:
            s = _scores(q_i, _at(k, j), runs_i, i, j)
            new = s.max(-1) if top is None else jnp.maximum(top, s.max(-1))
            p = jnp.exp(s - new[..., None])
            y = jnp.einsum(
                "RKGqk,RKkH->RKGqH",
                p.astype(v.dtype),
                _at(v, j)[:, :, 0],
                preferred_element_type=jnp.float32,
            )
            return new, p.sum(-1), y

        def add(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, y = state
            new, more, y_j = weigh(j, top)
            shrink = jnp.exp(top - new)
            return new, total * shrink + more, y * shrink[..., None] + y_j

        # Every query sees itself, so the diagonal comes first: no row is ever without a key.
        top, total, y = jax.lax.fori_loop(runs_i.first, i, add, weigh(i, None))
        return None, ((y / total[..., None]).astype(q.dtype), top + jnp.log(total))

    numbers = jnp.arange(len(q))
    return jax.lax.scan(of_queries, None, (numbers, q, runs))[1]


def _forward_rule(q: Array, k: Array, v: Array, runs: Runs) -> tuple[Array, tuple]:
    y, log_totals = _forward(q, k, v, runs)
    return y, (q, k, v, runs, y, log_totals)


def _backward_rule(kept: tuple, dy: Array) -> tuple[Array, Array, Array, None]:
    """Computes each block's weights again, from the sums that the way forward kept."""
    q, k, v, runs, y, log_totals = kept
    scale = 1 / np.sqrt(q.shape[-1])

    def of_queries(grads: tuple[Array, Array], block: tuple[Any, ...]):
        i, q_i, y_i, dy_i, log_total, runs_i = block
        mean = jnp.sum(y_i.astype(jnp.float32) * dy_i.astype(jnp.float32), -1, keepdims=True)

        def add(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_i, dk, dv = state
            k_j, v_j = _at(k, j), _at(v, j)
            p = jnp.exp(_scores(q_i, k_j, runs_i, i, j) - log_total[..., None])
            dot = lambda form, *xs: jnp.einsum(form, *xs, preferred_element_type=jnp.float32)
            dp = dot("RKGqH,RKkH->RKGqk", dy_i, v_j[:, :, 0])
            ds = (p * (dp - mean) * scale).astype(q.dtype)
            dq_i += dot("RKGqk,RKkH->RKGqH", ds, k_j[:, :, 0])
            dk = _added(dk, j, dot("RKGqk,RKGqH->RKkH", ds, q_i)[:, :, None])
            dv = _added(dv, j, dot("RKGqk,RKGqH->RKkH", p.astype(q.dtype), dy_i)[:, :, None])
            return dq_i, dk, dv

        zeros = jnp.zeros(q_i.shape, jnp.float32)
        dq_i, dk, dv = jax.lax.fori_loop(runs_i.first, i + 1, add, (zeros, *grads))
        return (dk, dv), dq_i.astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    each = jnp.arange(len(q)), q, y, dy, log_totals, runs
    (dk, dv), dq = jax.lax.scan(of_queries, zeros, each)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None


_attention.defvjp(_forward_rule, _backward_rule)
