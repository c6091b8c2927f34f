"""The compiled half of sampling: prefill, decode, and what is done to logits in between.

A prompt is prefilled once. Its keys and values are shared by its G samples; what a sample adds
lies in buffers of its own, one pair per layer, in which all rows write the same column, so that a
step is one update in place per buffer. Every array here starts with the axis of prompts.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt

from rlft_jax.models.qwen2 import Block, Qwen2
from rlft_jax.sampling.filters import Filter, penalise_repetition


class Prefix(NamedTuple):
    """What stays the same while decoding.

    Attributes:
        keys, values: Of the prompts, one per layer, padded on the left.
        lengths: Tokens of each prompt.
        random: A key per sample; token t is drawn with `fold_in(key, t)`.
    """

    keys: tuple[Float[Array, "B K H P"], ...]
    values: tuple[Float[Array, "B K P H"], ...]
    lengths: Int[Array, " B"]
    random: Key[Array, "B G"]


class State(NamedTuple):
    """What a decode step changes.

    Attributes:
        hidden: The last token's normalised state, which predicts the next token.
        keys, values: Of the sampled tokens, one per layer; column t holds token t of every row.
        seen: Tokens that occurred so far, if repetition is penalised.
    """

    hidden: Float[Array, "B G D"]
    keys: tuple[Float[Array, "B K G H S"], ...]
    values: tuple[Float[Array, "B K G S H"], ...]
    seen: Bool[Array, "B G V"] | None


class Weights(NamedTuple):
    """A model's parameters made ready for decoding: cast, and layer by layer."""

    outer: PyTree
    layers: tuple[PyTree, ...]


def decode_weights(params: PyTree, *, graph: nnx.GraphDef) -> Weights:
    """Casts parameters as the model would at every use, and takes stacked layers apart."""
    model: Qwen2 = nnx.merge(graph, params)

    def cast(path: Any, x: Array) -> Array:
        # The norms compute in float32, and so does the trainer.
        is_norm = path[-1].key == "scale"
        return x if is_norm else x.astype(model.compute.dtype)

    pure = lambda module: nnx.to_pure_dict(nnx.state(module))
    outer = {name: x for name, x in params.items() if name != "layers"}
    layers = tuple(pure(block) for block in model.blocks())
    return Weights(*jax.tree_util.tree_map_with_path(cast, (outer, layers)))


def _assembled(weights: Weights, graph: nnx.GraphDef) -> tuple[Qwen2, list[Block]]:
    """The model and its layers; nothing reads the stack again, so it is never computed."""
    stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *weights.layers)
    model = nnx.merge(graph, {**weights.outer, "layers": stacked})
    block, _ = nnx.split(model.layers)
    return model, [nnx.merge(block, layer) for layer in weights.layers]


def prefill(
    params: PyTree,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    requests: UInt[Array, " B"],
    seed: UInt[Array, ""],
    *,
    graph: nnx.GraphDef,
    samples: int,
    columns: int,
    with_seen: bool,
) -> tuple[Prefix, State]:
    """Reads prompts that are padded on the left, with room for `columns` tokens to follow."""
    model: Qwen2 = nnx.merge(graph, params)
    B, P = tokens.shape
    positions_BP = jnp.arange(P)[None] - (P - lengths[:, None])
    is_prompt_BP = positions_BP >= 0
    hidden_BPD, (keys, values) = model.prefill(
        tokens, is_prompt_BP.astype(jnp.int32), jnp.maximum(positions_BP, 0)
    )
    prefix = Prefix(
        keys=tuple(jnp.transpose(k_BPKH, (0, 2, 3, 1)) for k_BPKH in keys),
        values=tuple(jnp.transpose(v_BPKH, (0, 2, 1, 3)) for v_BPKH in values),
        lengths=lengths,
        random=_random_keys(seed, requests, samples),
    )
    L, _, _, K, H = keys.shape
    spread = lambda x: jnp.broadcast_to(x[:, None], (B, samples, *x.shape[1:]))
    seen = None
    if with_seen:
        V = model.architecture.vocabulary
        places = jnp.where(is_prompt_BP, tokens, V)
        mark = lambda places_P: jnp.zeros(V, bool).at[places_P].set(True, mode="drop")
        seen = spread(jax.vmap(mark)(places))
    state = State(
        hidden=spread(hidden_BPD[:, -1]),
        keys=tuple(jnp.zeros((B, K, samples, H, columns), keys.dtype) for _ in range(L)),
        values=tuple(jnp.zeros((B, K, samples, columns, H), keys.dtype) for _ in range(L)),
        seen=seen,
    )
    return prefix, state


def _random_keys(seed: Array, requests: UInt[Array, " B"], samples: int) -> Key[Array, "B G"]:
    of_prompts = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), requests)
    of_samples = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(of_samples, (0, None))(of_prompts, jnp.arange(samples))


def widened(state: State, *, columns: int) -> State:
    """The same state with room for `columns` tokens."""
    more = columns - state.keys[0].shape[-1]
    pad = lambda x, axis: jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])
    return state._replace(
        keys=tuple(pad(k, 4) for k in state.keys), values=tuple(pad(v, 3) for v in state.values)
    )


def decode(
    weights: Weights,
    prefix: Prefix,
    state: State,
    start: Int[Array, ""],
    *,
    graph: nnx.GraphDef,
    steps: int,
    temperature: float,
    repetition_penalty: float,
    filters: Sequence[Filter],
) -> tuple[State, Int[Array, "B G s"], Float[Array, "B G s"]]:
    """Samples tokens `start` to `start + steps` of every row, and their log-probabilities."""
    model, blocks = _assembled(weights, graph)

    def step(state: State, t: Array) -> tuple[State, tuple[Array, Array]]:
        logits_BGV = model.unembed(state.hidden)
        scores_BGV = logits_BGV if temperature == 0 else logits_BGV / temperature
        choice_BGV = scores_BGV
        if state.seen is not None:
            choice_BGV = penalise_repetition(scores_BGV, state.seen, repetition_penalty)
        for keep in filters:
            choice_BGV = keep(choice_BGV)
        if temperature != 0:
            choice_BGV += _gumbel(prefix.random, t, choice_BGV.shape[-1])
        tokens_BG = choice_BGV.argmax(-1)
        chosen_BG = jnp.take_along_axis(scores_BGV, tokens_BG[..., None], axis=-1)[..., 0]
        logprobs_BG = chosen_BG - jax.nn.logsumexp(scores_BGV, axis=-1)
        return advanced(model, blocks, prefix, state, tokens_BG, t), (tokens_BG, logprobs_BG)

    state, outputs = jax.lax.scan(step, state, start + jnp.arange(steps))
    tokens, logprobs = (jnp.moveaxis(x, 0, -1) for x in outputs)
    return state, tokens, logprobs


def _gumbel(random: Key[Array, "B G"], t: Array, V: int) -> Float[Array, "B G V"]:
    draw = lambda key: jax.random.gumbel(jax.random.fold_in(key, t), (V,))
    return jax.vmap(jax.vmap(draw))(random)


def advanced(
    model: Qwen2,
    blocks: Sequence[Block],
    prefix: Prefix,
    state: State,
    tokens: Int[Array, "B G"],
    t: Int[Array, ""],
) -> State:
    """The state after every row has read its token t."""
    # The samples of a prompt stand where a row's tokens do: what attends to what is up to us.
    rotation = model.rotation(jnp.broadcast_to(prefix.lengths[:, None] + t, tokens.shape))
    P, S = prefix.keys[0].shape[-1], state.keys[0].shape[-1]
    is_prompt_BP = jnp.arange(P)[None] >= P - prefix.lengths[:, None]
    is_past_BS = jnp.broadcast_to(jnp.arange(S) <= t, (len(tokens), S))
    mask_BT = jnp.concatenate([is_prompt_BP, is_past_BS], axis=1)
    keys, values = list(state.keys), list(state.values)
    x_BGD = model.embedded(tokens)
    for i, block in enumerate(blocks):

        def attend(q: Array, k: Array, v: Array, i: int = i) -> Array:
            k_BKGH1, v_BKG1H = k.swapaxes(1, 2)[..., None], v.swapaxes(1, 2)[..., None, :]
            write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=t)
            keys[i] = write(keys[i], k_BKGH1, axis=4)
            values[i] = write(values[i], v_BKG1H, axis=3)
            return _attended(q, prefix.keys[i], prefix.values[i], keys[i], values[i], mask_BT)

        x_BGD = block(x_BGD, rotation, attend)
    seen = state.seen
    if seen is not None:
        seen |= jax.nn.one_hot(tokens, seen.shape[-1], dtype=bool)
    return State(model.norm(x_BGD), tuple(keys), tuple(values), seen)


def _attended(
    q: Float[Array, "B G N H"],
    prompt_keys: Float[Array, "B K H P"],
    prompt_values: Float[Array, "B K P H"],
    keys: Float[Array, "B K G H S"],
    values: Float[Array, "B K G S H"],
    mask: Bool[Array, "B P+S"],
) -> Float[Array, "B G N H"]:
    """One softmax, in float32, over a prompt that samples share and the tokens of their own."""
    B, K, G, H, _ = keys.shape
    P = prompt_keys.shape[-1]
    q_BKGnH = q.reshape(B, G, K, -1, H).swapaxes(1, 2)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores_BKGnT = jnp.concatenate(
        [dot("bkgnh,bkhp->bkgnp", q_BKGnH, prompt_keys), dot("bkgnh,bkghs->bkgns", q_BKGnH, keys)],
        axis=-1,
    )
    scores_BKGnT = jnp.where(mask[:, None, None, None], scores_BKGnT / H**0.5, -jnp.inf)
    weights_BKGnT = jax.nn.softmax(scores_BKGnT, axis=-1).astype(values.dtype)
    y_BKGnH = jnp.einsum("bkgnp,bkph->bkgnh", weights_BKGnT[..., :P], prompt_values)
    y_BKGnH += jnp.einsum("bkgns,bkgsh->bkgnh", weights_BKGnT[..., P:], values)
    return y_BKGnH.swapaxes(1, 2).reshape(q.shape)
