"""The compiled half of sampling: prefill, admission, and decoding a chunk of tokens at a time.

Every sample at work has a row, and column t of its row holds token t of prompt and completion,
whenever it came and whoever else is there. While a chunk is decoded the cache is only read: what
is new lies in small buffers in which all rows write the same column, and moves to each row's own
place at the end of the chunk.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt

from rlft_jax.models.qwen2 import Block, Qwen2
from rlft_jax.sampling.drawing import drawn, likeliest
from rlft_jax.sampling.filters import Filter, penalise_repetition
from rlft_jax.sampling.weights import Weights, assembled, embedded


class Prompts(NamedTuple):
    """Prompts that were read, each once for all of its samples.

    Attributes:
        hidden: The last token's normalised state, which predicts the next token.
        keys, values: One per layer, padded on the right.
        lengths: Tokens of each prompt.
        seen: Tokens that occur in it, if repetition is penalised.
    """

    hidden: Float[Array, "B D"]
    keys: tuple[Float[Array, "B K H P"], ...]
    values: tuple[Float[Array, "B K P H"], ...]
    lengths: Int[Array, " B"]
    seen: Bool[Array, "B V"] | None


class Rows(NamedTuple):
    """Samples at work; what a free row holds means nothing.

    Attributes:
        hidden: The last token's normalised state, which predicts the next token.
        keys, values: Of prompt and completion, one per layer.
        lengths: Tokens in the cache.
        said: Of them, tokens of the completion.
        random: A key per sample; token t is drawn by `fold_in(key, t)`.
        seen: Tokens that occurred so far, if repetition is penalised.
    """

    hidden: Float[Array, "R D"]
    keys: tuple[Float[Array, "R K H C"], ...]
    values: tuple[Float[Array, "R K C H"], ...]
    lengths: Int[Array, " R"]
    said: Int[Array, " R"]
    random: Key[Array, " R"]
    seen: Bool[Array, "R V"] | None


class Chunk(NamedTuple):
    """What a decode step changes; column i holds what token i of the chunk adds to the cache."""

    hidden: Float[Array, "R D"]
    keys: tuple[Float[Array, "R K H s"], ...]
    values: tuple[Float[Array, "R K s H"], ...]
    seen: Bool[Array, "R V"] | None


def prefill(
    params: PyTree,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    *,
    graph: nnx.GraphDef,
    with_seen: bool,
) -> Prompts:
    """Reads prompts that are padded on the right."""
    model: Qwen2 = nnx.merge(graph, params)
    B, P = tokens.shape
    positions_BP = jnp.broadcast_to(jnp.arange(P), (B, P))
    is_prompt_BP = positions_BP < lengths[:, None]
    hidden_BPD, (keys, values) = model.prefill(tokens, is_prompt_BP.astype(jnp.int32), positions_BP)
    last_B = jnp.maximum(lengths - 1, 0)
    seen = None
    if with_seen:
        V = model.architecture.vocabulary
        mark = lambda places_P: jnp.zeros(V, bool).at[places_P].set(True, mode="drop")
        seen = jax.vmap(mark)(jnp.where(is_prompt_BP, tokens, V))
    return Prompts(
        hidden=jnp.take_along_axis(hidden_BPD, last_B[:, None, None], axis=1)[:, 0],
        keys=tuple(jnp.transpose(k_BPKH, (0, 2, 3, 1)) for k_BPKH in keys),
        values=tuple(jnp.transpose(v_BPKH, (0, 2, 1, 3)) for v_BPKH in values),
        lengths=lengths,
        seen=seen,
    )


def free_rows(prompts: Prompts, *, rows: int, columns: int) -> Rows:
    """Rows for samples of such prompts, all free."""

    def like(x: Array, column_axis: int | None = None) -> Array:
        shape = [rows, *x.shape[1:]]
        if column_axis is not None:
            shape[column_axis] = columns
        return jnp.zeros(shape, x.dtype)

    return Rows(
        hidden=like(prompts.hidden),
        keys=tuple(like(k, 3) for k in prompts.keys),
        values=tuple(like(v, 2) for v in prompts.values),
        lengths=like(prompts.lengths),
        said=like(prompts.lengths),
        random=jnp.broadcast_to(jax.random.key(0), (rows,)),
        seen=None if prompts.seen is None else like(prompts.seen),
    )


def admit(
    rows: Rows,
    prompts: Prompts,
    places: Int[Array, " n"],
    sources: Int[Array, " n"],
    requests: UInt[Array, " n"],
    samples: Int[Array, " n"],
    seed: UInt[Array, ""],
) -> Rows:
    """Starts samples of prompts in some rows.

    Args:
        places: The row of each; beyond the last one for none.
        sources: The prompt of each.
        requests, samples: What its randomness comes from, beside the seed.
    """
    P = prompts.keys[0].shape[-1]
    put = lambda x, new: x.at[places].set(new[sources], mode="drop")
    put_keys = lambda x, new: x.at[places, :, :, :P].set(new[sources], mode="drop")
    put_values = lambda x, new: x.at[places, :, :P].set(new[sources], mode="drop")
    fold_in = jax.vmap(jax.random.fold_in)
    of_requests = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), requests)
    return Rows(
        hidden=put(rows.hidden, prompts.hidden),
        keys=tuple(map(put_keys, rows.keys, prompts.keys)),
        values=tuple(map(put_values, rows.values, prompts.values)),
        lengths=put(rows.lengths, prompts.lengths),
        said=rows.said.at[places].set(0, mode="drop"),
        random=rows.random.at[places].set(fold_in(of_requests, samples), mode="drop"),
        seen=None if rows.seen is None else put(rows.seen, prompts.seen),
    )


def chosen(rows: Rows, places: Int[Array, " r"]) -> Rows:
    """Some of the rows."""
    return jax.tree.map(lambda x: x[places], rows)


def widened(rows: Rows, *, columns: int) -> Rows:
    """The same rows with room for so many tokens."""
    more = columns - rows.keys[0].shape[-1]
    pad = lambda x, axis: jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])
    return rows._replace(
        keys=tuple(pad(k, 3) for k in rows.keys), values=tuple(pad(v, 2) for v in rows.values)
    )


def decode(
    weights: Weights,
    rows: Rows,
    *,
    graph: nnx.GraphDef,
    steps: int,
    temperature: float,
    repetition_penalty: float,
    filters: Sequence[Filter],
) -> tuple[Rows, Int[Array, "R s"], Float[Array, "R s"]]:
    """Samples the next tokens of every row, and returns their log-probabilities too."""
    model, blocks = assembled(weights, graph)

    def step(chunk: Chunk, i: Array) -> tuple[Chunk, tuple[Array, Array]]:
        logits_RV = model.unembed(chunk.hidden)
        scores_RV = logits_RV if temperature == 0 else logits_RV / temperature
        choice_RV = scores_RV
        if chunk.seen is not None:
            choice_RV = penalise_repetition(scores_RV, chunk.seen, repetition_penalty)
        for keep in filters:
            choice_RV = keep(choice_RV)
        is_greedy = temperature == 0
        tokens_R = (
            likeliest(choice_RV) if is_greedy else drawn(choice_RV, rows.random, rows.said + i)
        )
        chosen_R = jnp.take_along_axis(scores_RV, tokens_R[:, None], axis=-1)[:, 0]
        logprobs_R = chosen_R - jax.nn.logsumexp(scores_RV, axis=-1)
        x_RD = embedded(model, weights.words, tokens_R)
        return advanced(model, blocks, rows, chunk, tokens_R, x_RD, i), (tokens_R, logprobs_R)

    buffers = lambda caches, axis: tuple(_columns_like(x, axis, steps) for x in caches)
    chunk = Chunk(rows.hidden, buffers(rows.keys, 3), buffers(rows.values, 2), rows.seen)
    chunk, outputs = jax.lax.scan(step, chunk, jnp.arange(steps))
    tokens, logprobs = (x.swapaxes(0, 1) for x in outputs)
    return _with_chunk(rows, chunk, steps), tokens, logprobs


def _columns_like(x: Array, axis: int, columns: int) -> Array:
    return jnp.zeros([columns if i == axis else n for i, n in enumerate(x.shape)], x.dtype)


def _with_chunk(rows: Rows, chunk: Chunk, steps: int) -> Rows:
    """The rows after a chunk: what it added follows what each row had."""
    put = lambda axis: jax.vmap(
        functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis), (0, 0, 0)
    )
    keys = tuple(put(2)(k, new, rows.lengths) for k, new in zip(rows.keys, chunk.keys))
    values = tuple(put(1)(v, new, rows.lengths) for v, new in zip(rows.values, chunk.values))
    return Rows(
        chunk.hidden, keys, values, rows.lengths + steps, rows.said + steps, rows.random, chunk.seen
    )


def advanced(
    model: Qwen2,
    blocks: Sequence[Block],
    rows: Rows,
    chunk: Chunk,
    tokens: Int[Array, " R"],
    x: Float[Array, "R D"],
    i: Int[Array, ""],
) -> Chunk:
    """The chunk after every row has read its token i, which x is the embedding of."""
    rotation = model.rotation(rows.lengths[:, None] + i)
    C, s = rows.keys[0].shape[-1], chunk.keys[0].shape[-1]
    is_past_RC = jnp.arange(C)[None] < rows.lengths[:, None]
    is_new_Rs = jnp.broadcast_to(jnp.arange(s) <= i, (len(tokens), s))
    mask_RS = jnp.concatenate([is_past_RC, is_new_Rs], axis=1)
    keys, values = list(chunk.keys), list(chunk.values)
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=i)
    x_R1D = x[:, None]
    for layer, block in enumerate(blocks):

        def attend(q: Array, k: Array, v: Array, layer: int = layer) -> Array:
            keys[layer] = write(keys[layer], k[:, 0, :, :, None], axis=3)
            values[layer] = write(values[layer], v[:, 0, :, None, :], axis=2)
            past = rows.keys[layer], rows.values[layer]
            return _attended(q[:, 0], *past, keys[layer], values[layer], mask_RS)[:, None]

        x_R1D = block(x_R1D, rotation, attend)
    seen = chunk.seen
    if seen is not None:
        seen |= jax.nn.one_hot(tokens, seen.shape[-1], dtype=bool)
    return Chunk(model.norm(x_R1D[:, 0]), tuple(keys), tuple(values), seen)


def _attended(
    q: Float[Array, "R N H"],
    past_keys: Float[Array, "R K H C"],
    past_values: Float[Array, "R K C H"],
    new_keys: Float[Array, "R K H s"],
    new_values: Float[Array, "R K s H"],
    mask: Bool[Array, "R C+s"],
) -> Float[Array, "R N H"]:
    """One softmax, in float32, over the cache and what the chunk adds to it."""
    R, K, H, C = past_keys.shape
    q_RKnH = q.reshape(R, K, -1, H)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores_RKnS = jnp.concatenate(
        [dot("rknh,rkhc->rknc", q_RKnH, keys) for keys in (past_keys, new_keys)], axis=-1
    )
    scores_RKnS = jnp.where(mask[:, None, None], scores_RKnS / H**0.5, -jnp.inf)
    weights_RKnS = jax.nn.softmax(scores_RKnS, axis=-1).astype(past_values.dtype)
    y_RKnH = dot("rknc,rkch->rknh", weights_RKnS[..., :C], past_values)
    y_RKnH += dot("rknc,rkch->rknh", weights_RKnS[..., C:], new_values)
    return y_RKnH.astype(q.dtype).reshape(q.shape)
