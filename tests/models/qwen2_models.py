"""Tiny models and the ways in which tests make and run them."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import unflatten_dict

from rlft_jax.models import convert
from rlft_jax.models.qwen2 import Architecture, Qwen2

TINY = Architecture(
    vocabulary=37,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    feed_forward=24,
    head_width=4,
    rope_theta=10_000.0,
    max_positions=64,
)
SHAPES = {
    "tied, 2 KV heads": TINY,
    "untied, 2 KV heads": dataclasses.replace(TINY, tied=False),
    "tied, 1 KV head": dataclasses.replace(TINY, kv_heads=1),
    "untied, as many KV heads": dataclasses.replace(TINY, kv_heads=4, tied=False),
    "wider heads, untied": dataclasses.replace(
        TINY, head_width=6, norm_epsilon=1e-5, rope_theta=1e6, tied=False
    ),
}


def random_params(architecture: Architecture = TINY, seed: int = 0) -> convert.Params:
    """float32 parameters of which none is trivial, biases and norms included."""
    rng = np.random.default_rng(seed)
    noise = lambda shape: 0.2 * rng.standard_normal(shape, np.float32)
    return unflatten_dict(
        {
            place: jnp.asarray(noise(entry.stacked_shape) + (place[-1] == "scale"))
            for place, entry in convert.entries(architecture).items()
        }
    )


def random_model(architecture: Architecture = TINY, seed: int = 0) -> Qwen2:
    """A model with `random_params` that computes at float32."""
    return from_params(architecture, random_params(architecture, seed))


def params_of(model: Qwen2) -> convert.Params:
    """All parameters as nested dicts."""
    return nnx.to_pure_dict(nnx.split(model)[1])


def from_params(architecture: Architecture, params: convert.Params) -> Qwen2:
    """A model that computes at float32 with given parameters."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Qwen2(architecture, rngs=nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def from_folder(folder: Path) -> Qwen2:
    """The model in a Hugging Face folder."""
    return from_params(convert.read_architecture(folder), convert.load(folder))


def rows(architecture: Architecture, *, padding: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random tokens, a mask with padding on one side, and a cotangent for the logits."""
    rng = np.random.default_rng(1)
    lengths, T = (9, 4, 7), 9
    tokens = rng.integers(0, architecture.vocabulary, (len(lengths), T), np.int32)
    mask = np.arange(T) < np.array(lengths)[:, None]
    if padding == "left":
        mask = mask[:, ::-1]
    cotangent = rng.standard_normal((len(lengths), T, architecture.vocabulary), np.float32)
    return tokens, mask.astype(np.int32), cotangent


def logits_and_gradients(
    model: Qwen2, tokens: np.ndarray, mask: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, convert.Params]:
    """Our side of `torch_reference.reference`."""
    graph, state = nnx.split(model)
    segments = jnp.asarray(mask)
    positions = jnp.maximum(jnp.cumsum(segments, -1) - 1, 0)

    def total(state):
        model = nnx.merge(graph, state)
        logits = model.unembed(model.hidden(jnp.asarray(tokens), segments, positions))
        return (logits * cotangent * mask[..., None]).sum(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(state)
    return np.asarray(logits), nnx.to_pure_dict(gradients)


def hidden(model: Qwen2, tokens, segments=None, positions=None) -> np.ndarray:
    """`model.hidden`, compiled once for all models of a structure and rows of a shape."""
    tokens = jnp.asarray(tokens)
    segments = jnp.ones_like(tokens) if segments is None else jnp.asarray(segments)
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    graph, state = nnx.split(model)
    return np.asarray(_hidden(graph, state, tokens, segments, positions))


@functools.partial(jax.jit, static_argnums=0)
def _hidden(graph, state, tokens, segments, positions):
    return nnx.merge(graph, state).hidden(tokens, segments, positions)
