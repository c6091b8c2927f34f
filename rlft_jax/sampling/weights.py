"""A model's parameters made ready for decoding."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt

from rlft_jax.models.qwen2 import Block, Linear, Qwen2


class Weights(NamedTuple):
    """Parameters, cast and layer by layer, with kernels flipped.

    Attributes:
        words: The bits of the embedding, to look tokens up in, where that is faster.
    """

    outer: PyTree
    layers: tuple[PyTree, ...]
    words: UInt[Array, "V D"] | None


def decode_weights(params: PyTree, *, graph: nnx.GraphDef) -> Weights:
    """Casts parameters as the model would at every use, and takes stacked layers apart."""
    model: Qwen2 = nnx.merge(graph, params)

    def ready(path: Any, x: Array) -> Array:
        if path[-1].key == "scale":  # the norms compute in float32, and so does the trainer
            return x
        x = x.astype(model.compute.dtype)
        return x.T if path[-1].key == "kernel" else x

    pure = lambda module: nnx.to_pure_dict(nnx.state(module))
    outer = {name: x for name, x in params.items() if name != "layers"}
    layers = tuple(pure(block) for block in model.blocks())
    outer, layers = jax.tree_util.tree_map_with_path(ready, (outer, layers))
    words = None
    if model.compute.dtype == "bfloat16" and jax.default_backend() == "cpu":
        # There a look-up in bfloat16 makes a float32 copy of all that could be looked up.
        words = jax.lax.bitcast_convert_type(outer["embed"]["embedding"], jnp.uint16)
    return Weights(outer, layers, words)


def assembled(weights: Weights, graph: nnx.GraphDef) -> tuple[Qwen2, list[Block]]:
    """The model and its layers; nothing reads the stack again, so it is never computed."""
    stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *weights.layers)
    model = nnx.merge(graph, {**weights.outer, "layers": stacked})
    graph, _ = nnx.split(model.layers)
    blocks = [nnx.merge(graph, layer) for layer in weights.layers]
    for _, module in itertools.chain(*map(nnx.iter_modules, blocks)):
        if isinstance(module, Linear):
            module.is_flipped = True
    return model, blocks


def embedded(
    model: Qwen2, words: UInt[Array, "V D"] | None, tokens: Int[Array, " R"]
) -> Float[Array, "R D"]:
    """The first layer's input."""
    if words is None:
        return model.embedded(tokens)
    return jax.lax.bitcast_convert_type(words[tokens], jnp.bfloat16)
