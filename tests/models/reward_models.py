"""Tiny reward models, texts for them, and the ways in which tests run both."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import unflatten_dict

from rlft_jax.models import deberta, distilbert, qwen2, reward
from rlft_jax.models.qwen2 import Compute
from rlft_jax.models.tensor_table import Params
from rlft_jax.packing import first_fit
from rlft_jax.texts import Text, TextBatch, Texts, pack
from tests.tiny import QUICKLY

DEBERTA_V3 = deberta.Architecture(
    vocabulary=40,
    width=16,
    layers=2,
    heads=4,
    feed_forward=24,
    max_positions=24,
    max_distance=24,
    buckets=8,
)
DEBERTA_V2 = dataclasses.replace(
    DEBERTA_V3, has_positions=True, types=2, buckets=0, max_distance=10, has_shared_keys=False
)
change = dataclasses.replace
DEBERTAS = {
    "v3": DEBERTA_V3,
    "v2": DEBERTA_V2,
    "v2, convolution": change(DEBERTA_V3, conv_width=3, conv_activation="gelu", layers=3),
    "v2, wide convolution, one layer": change(DEBERTA_V2, conv_width=5, layers=1),
    "keys of its own, buckets": change(DEBERTA_V3, has_shared_keys=False, buckets=6, heads=2),
    "shared keys, types, positions": change(DEBERTA_V2, has_shared_keys=True, types=3),
    "c2p alone": change(DEBERTA_V3, terms=("c2p",), has_shared_keys=False),
    "p2c alone, other activations": change(
        DEBERTA_V2, terms=("p2c",), activation="gelu_new", pooler_activation="tanh"
    ),
    "no term, raw distances": change(
        DEBERTA_V3, terms=(), normalises_distances=False, norm_epsilon=1e-5
    ),
    "raw distances": change(DEBERTA_V3, normalises_distances=False, layers=1),
}
DISTILBERT = distilbert.Architecture(
    vocabulary=40, width=16, layers=2, heads=4, feed_forward=24, max_positions=24
)
DISTILBERTS = {
    "usual": DISTILBERT,
    "relu, one head": change(DISTILBERT, activation="relu", heads=1, layers=3),
}
QWEN2 = qwen2.Architecture(
    vocabulary=40,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    feed_forward=24,
    head_width=4,
    rope_theta=10_000.0,
    max_positions=64,
)
QWEN2S = {"2 KV heads": QWEN2, "wider heads, 1 KV head": change(QWEN2, head_width=6, kv_heads=1)}
ONE_OF_EACH = {
    "deberta": change(DEBERTA_V2, conv_width=3, buckets=8, max_distance=24),
    "distilbert": DISTILBERT,
    "qwen2": QWEN2,
}
LENGTHS = ((20, 3), (9, 14), (1, 24))


def table_of(architecture: reward.Architecture) -> dict:
    """The parameters of an architecture, with the tensors that make them up."""
    return reward.family_of(architecture).entries(architecture)


def random_params(architecture: reward.Architecture, seed: int = 0) -> Params:
    """float32 parameters of which none is trivial, biases and norms included."""
    rng = np.random.default_rng(seed)
    noise = lambda shape: 0.3 * rng.standard_normal(shape, np.float32)
    return unflatten_dict(
        {
            place: jnp.asarray(noise(entry.stacked_shape) + (place[-1] == "scale"))
            for place, entry in table_of(architecture).items()
        }
    )


def texts(architecture: Any = DEBERTA_V3, lengths=LENGTHS, *, seed: int = 1) -> Texts:
    """Random texts of given lengths; token 0 is padding and in none of them."""
    rng = np.random.default_rng(seed)
    types = getattr(architecture, "types", 0) or 1
    text = lambda n: Text(
        rng.integers(1, architecture.vocabulary, n, np.int32),
        np.sort(rng.integers(0, types, n, np.int32)),
    )
    return Texts.of([[text(n) for n in group] for group in lengths])


def laid(texts: Texts, *, packed: bool, multiple: int = 1, tokens: int = 32) -> TextBatch:
    """The one micro-batch that texts make."""
    packing = first_fit(texts.lengths, tokens=tokens, packed=packed, multiple=multiple)
    return jax.tree.map(lambda x: jnp.asarray(x[0]), pack(texts, packing))


def scores(
    architecture: reward.Architecture,
    params: Params,
    batch: TextBatch,
    compute: Compute | None = None,
) -> np.ndarray:
    """Scores `[P, G]`."""
    graph, _ = reward.structure(architecture, compute)
    return np.asarray(_scores(graph, params, batch))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def _scores(graph, params, batch):
    return nnx.merge(graph, params).scores(batch)


def scores_and_gradients(
    architecture: reward.Architecture,
    params: Params,
    batch: TextBatch,
    cotangent: np.ndarray,
    compute: Compute | None = None,
) -> tuple[np.ndarray, Params]:
    """Scores, and the gradient of their sum weighed by `cotangent`."""
    graph, _ = reward.structure(architecture, compute)
    (_, found), gradients = _gradients(graph, params, batch, jnp.asarray(cotangent))
    return np.asarray(found), gradients


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def _gradients(graph, params, batch, cotangent):
    def total(params):
        found = nnx.merge(graph, params).scores(batch)
        return (found * cotangent).sum(), found

    return jax.value_and_grad(total, has_aux=True)(params)


def cotangent(texts: Texts) -> np.ndarray:
    """Weights of the scores, for gradients."""
    return np.random.default_rng(2).standard_normal(texts.lengths.shape, np.float32)


def exported(folder: Path, architecture: reward.Architecture, **settings: Any) -> Params:
    """Writes a random model at float32 and returns its parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    params = random_params(architecture)
    reward.save(folder, params, architecture, pad_id=0, **settings)
    return params
