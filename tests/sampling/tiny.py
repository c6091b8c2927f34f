"""A model that is small and has strong opinions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rlft_jax.models import lora
from rlft_jax.models.qwen2 import Architecture, Compute, Qwen2

TINY = Architecture(
    vocabulary=24,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    feed_forward=32,
    head_width=8,
    max_positions=256,
)


def make(compute: Compute | None = None, *, adapted: bool = False):
    """Structure and parameters."""

    def model() -> Qwen2:
        model = Qwen2(TINY, compute=compute, rngs=nnx.Rngs(0))
        if adapted:
            lora.add(model, lora.Settings(rank=2), key=jax.random.key(1))
        return model

    graph, state = nnx.split(nnx.eval_shape(model))
    random = np.random.default_rng(2)
    draw = lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), jnp.float32)
    return graph, jax.tree.map(draw, nnx.to_pure_dict(state))
