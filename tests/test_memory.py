"""What a run says that it will need is what arrays, and compiled programs, then take."""

import functools

import jax
import numpy as np
import pytest

from rlft_jax.batch import Batch
from rlft_jax.models.qwen2 import Architecture, Compute
from rlft_jax.objectives import sft
from rlft_jax.training.memory import (
    activation_bytes,
    parameter_bytes,
    readable,
    state_bytes,
)
from rlft_jax.training.optimizer import adamw
from rlft_jax.training.sharding import make_mesh, shardings
from rlft_jax.training.step import init_state, train_step
from tests import tiny


@pytest.mark.parametrize("adapter", [None, dict(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2), (1, 4, 2)], ids=str)
def test_the_state_takes_the_bytes_that_were_said(mesh, adapter):
    mesh = make_mesh(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    state = init_state(tiny.policy(adapter=adapter).params, adamw(1))
    where = shardings(state, mesh)
    placed = jax.device_put(state, where)
    shapes = jax.eval_shape(lambda: state)

    def on_first_device(tree) -> int:
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    said = state_bytes(shapes, where)
    assert said["trainable parameters"] == on_first_device(placed.params)
    assert said["gradients"] == said["trainable parameters"]
    assert said["optimizer"] == on_first_device(placed.opt_state)
    assert parameter_bytes(shapes, where) == on_first_device(placed)


WIDE = Architecture(
    vocabulary=2048,
    width=64,
    layers=8,
    heads=4,
    kv_heads=2,
    feed_forward=160,
    head_width=16,
)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_activations_take_about_what_was_said(remat):
    """Compiled only; the compiler frees and shares what it can."""
    compute = Compute(head_chunk=128, remat=remat)
    policy = tiny.policy(WIDE, compute=compute)
    rows, tokens = 16, 128
    field = lambda dtype: jax.ShapeDtypeStruct((1, rows, tokens), dtype)
    batch = Batch(
        tokens=field("int32"),  # pyright: ignore
        segments=field("int32"),  # pyright: ignore
        positions=field("int32"),  # pyright: ignore
        is_response=field("bool"),  # pyright: ignore
        is_real=jax.ShapeDtypeStruct((1, rows, 1), "bool"),  # pyright: ignore
    )
    step = functools.partial(
        train_step, graph=policy.graph, objective=sft.objective, optimizer=adamw(1), seed=0
    )
    state = init_state(policy.params, adamw(1))
    compiled = (
        jax.jit(step, donate_argnums=0, compiler_options=tiny.QUICKLY)
        .lower(state, {}, batch)
        .compile()
    )
    taken = compiled.memory_analysis().temp_size_in_bytes
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), make_mesh().axis_names)
    said = activation_bytes(WIDE, compute, one, responses=rows, tokens=tokens)
    gradients = sum(x.nbytes for x in jax.tree.leaves(policy.params))
    total = sum(said.values()) + gradients
    assert 0.75 < total / taken < 1.33


def test_bytes_are_readable():
    assert [readable(n) for n in (0, 1023, 1024, 5 << 20, 3 << 40)] == [
        "0.0 B",
        "1023.0 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]
