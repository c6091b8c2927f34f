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

from rlft_jax.models.qwen2 import Block, Qwen2, Rotation
from rlft_jax.sampling.cache import CacheDtype, Kept, kept_keys, kept_values, scored, summed
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
    keys: tuple[Kept, ...]  # B K H P
    values: tuple[Kept, ...]  # B K P H
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
    keys: tuple[Kept, ...]  # R K H C
    values: tuple[Kept, ...]  # R K C H
    lengths: Int[Array, " R"]
    said: Int[Array, " R"]
    random: Key[Array, " R"]
    seen: Bool[Array, "R V"] | None


class Chunk(NamedTuple):
    """What a decode step changes; column i holds what token i of the chunk adds to the cache."""

    hidden: Float[Array, "R D"]
    keys: tuple[Kept, ...]  # R K H s
    values: tuple[Kept, ...]  # R K s H
    seen: Bool[Array, "R V"] | None


class Columns(NamedTuple):
    """Tokens of a layer to attend to.

    Attributes:
        rotation: Of their positions, in every row or the same in all.
    """

    keys: Kept
    values: Kept
    rotation: Rotation


def prefill(
    params: PyTree,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    *,
    graph: nnx.GraphDef,
    with_seen: bool,
    cache_dtype: CacheDtype | None,
) -> Prompts:
    """Reads prompts that are padded on the right."""
    model: Qwen2 = nnx.merge(graph, params)
    B, P = tokens.shape
    positions_BP = jnp.broadcast_to(jnp.arange(P), (B, P))
    is_prompt_BP = positions_BP < lengths[:, None]
    hidden_BPD, (keys, values) = model.prefill(tokens, is_prompt_BP.astype(jnp.int32), positions_BP)
    rotation, biases = model.rotation(positions_BP), model.layers.attention.key_bias
    last_B = jnp.maximum(lengths - 1, 0)
    seen = None
    if with_seen:
        V = model.architecture.vocabulary
        mark = lambda places_P: jnp.zeros(V, bool).at[places_P].set(True, mode="drop")
        seen = jax.vmap(mark)(jnp.where(is_prompt_BP, tokens, V))
    return Prompts(
        hidden=jnp.take_along_axis(hidden_BPD, last_B[:, None, None], axis=1)[:, 0],
        keys=tuple(kept_keys(k, bias, rotation, cache_dtype) for k, bias in zip(keys, biases)),
        values=tuple(kept_values(v, cache_dtype) for v in values),
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
        keys=jax.tree.map(lambda k: like(k, 3), prompts.keys),
        values=jax.tree.map(lambda v: like(v, 2), prompts.values),
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
        keys=jax.tree.map(put_keys, rows.keys, prompts.keys),
        values=jax.tree.map(put_values, rows.values, prompts.values),
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
        keys=jax.tree.map(lambda k: pad(k, 3), rows.keys),
        values=jax.tree.map(lambda v: pad(v, 2), rows.values),
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
    cache_dtype: CacheDtype | None,
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
        chunk = advanced(model, blocks, rows, chunk, tokens_R, x_RD, i, cache_dtype)
        return chunk, (tokens_R, logprobs_R)

    buffers = lambda cache, axis: jax.tree.map(lambda x: _columns_like(x, axis, steps), cache)
    chunk = Chunk(rows.hidden, buffers(rows.keys, 3), buffers(rows.values, 2), rows.seen)
    chunk, outputs = jax.lax.scan(step, chunk, jnp.arange(steps))
    tokens, logprobs = (x.swapaxes(0, 1) for x in outputs)
    return _with_chunk(rows, chunk, steps), tokens, logprobs


def _columns_like(x: Array, axis: int, columns: int) -> Array:
    return jnp.zeros([columns if i == axis else n for i, n in enumerate(x.shape)], x.dtype)


def _with_chunk(rows: Rows, chunk: Chunk, steps: int) -> Rows:
    """The rows after a chunk: what it added follows what each row had."""

    def put(cache: PyTree, new: PyTree, axis: int) -> PyTree:
        at = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis - 1)
        return jax.tree.map(lambda x, y: jax.vmap(at)(x, y, rows.lengths), cache, new)

    keys, values = put(rows.keys, chunk.keys, 3), put(rows.values, chunk.values, 2)
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
    cache_dtype: CacheDtype | None,
) -> Chunk:
    """The chunk after every row has read its token i, which x is the embedding of."""
    rotation = model.rotation(rows.lengths[:, None] + i)
    C, s = rows.keys[0].shape[-1], chunk.keys[0].shape[-1]
    is_past_RC = jnp.arange(C)[None] < rows.lengths[:, None]
    is_new_Rs = jnp.broadcast_to(jnp.arange(s) <= i, (len(tokens), s))
    mask_RS = jnp.concatenate([is_past_RC, is_new_Rs], axis=1)
    past_rotation = model.rotation(jnp.arange(C)[None])
    new_rotation = model.rotation(rows.lengths[:, None] + jnp.arange(s)[None])
    keys, values = list(chunk.keys), list(chunk.values)

    def write(buffer: Kept, token: Kept, axis: int) -> Kept:
        at = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=i, axis=axis)
        return jax.tree.map(at, buffer, token)

    x_R1D = x[:, None]
    for layer, block in enumerate(blocks):
        bias = block.attention.key_bias

        def attend(q: Array, k: Array, v: Array, layer: int = layer, bias: Array = bias) -> Array:
            keys[layer] = write(keys[layer], kept_keys(k, bias, rotation, cache_dtype), 3)
            values[layer] = write(values[layer], kept_values(v, cache_dtype), 2)
            past = Columns(rows.keys[layer], rows.values[layer], past_rotation)
            new = Columns(keys[layer], values[layer], new_rotation)
            return _attended(q[:, 0], past, new, bias, mask_RS)[:, None]

        x_R1D = block(x_R1D, rotation, attend)
    seen = chunk.seen
    if seen is not None:
        seen |= jax.nn.one_hot(tokens, seen.shape[-1], dtype=bool)
    return Chunk(model.norm(x_R1D[:, 0]), tuple(keys), tuple(values), seen)


def _attended(
    q: Float[Array, "R N H"],
    past: Columns,
    new: Columns,
    bias: Float[Array, " KH"],
    mask: Bool[Array, "R S"],
) -> Float[Array, "R N H"]:
    """One softmax, in float32, over the cache and what the chunk adds to it."""
    R, K, H, C = past.keys.shape
    q_RKnH = q.reshape(R, K, -1, H)
    scores_RKnS = jnp.concatenate(
        [scored(q_RKnH, part.keys, bias, part.rotation) for part in (past, new)], axis=-1
    )
    scores_RKnS = jnp.where(mask[:, None, None], scores_RKnS / H**0.5, -jnp.inf)
    weights_RKnS = jax.nn.softmax(scores_RKnS, axis=-1)
    y_RKnH = summed(weights_RKnS[..., :C], past.values, q.dtype)
    y_RKnH += summed(weights_RKnS[..., C:], new.values, q.dtype)
    return y_RKnH.astype(q.dtype).reshape(q.shape)
