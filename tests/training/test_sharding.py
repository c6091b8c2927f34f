"""A step on a mesh is the step on one device, and what does not fit a mesh is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.objectives import dpo, rloo, sft
from rlft_jax.training.feeding import Feed
from rlft_jax.training.optimizer import adamw
from rlft_jax.training.sharding import (
    local_copy,
    local_mesh,
    local_rows,
    make_mesh,
    place_rows,
    shardings,
)
from rlft_jax.training.step import TrainState, init_state, train_step
from tests import tiny

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)]
# A large epsilon: where a gradient is 0 but for rounding, Adam would make steps of the rounding.
OPTIMIZER = adamw(4, learning_rate=1e-2, epsilon=1e-3, weight_decay=0.1)
OBJECTIVES = {
    "sft": sft.objective,
    "rloo": functools.partial(rloo.objective, kl_weight=0.1),
    "dpo": functools.partial(dpo.objective, loss={"sigmoid": 1.0, "simpo": 0.5}),
}
POLICIES = {"full": None, "lora": dict(rank=4)}
RESPONSES = tiny.responses(prompts=8, group=2)


def mesh_of(data: int, fsdp: int, tensor: int):
    return make_mesh(data=data, fsdp=fsdp, tensor=tensor)


def two_steps(objective: str, adapter: str, mesh=None) -> tuple[TrainState, dict]:
    """The state after two steps, and the metrics of the last, on a mesh or on one device."""
    policy = tiny.policy(adapter=POLICIES[adapter])
    state, frozen = init_state(policy.params, OPTIMIZER), policy.frozen
    step = functools.partial(
        train_step,
        graph=policy.graph,
        objective=OBJECTIVES[objective],
        optimizer=OPTIMIZER,
        seed=0,
    )
    if mesh is None:
        batch, compiled = (
            tiny.batch_of(RESPONSES, micro_batches=2),
            jax.jit(step, compiler_options=tiny.QUICKLY),
        )
    else:
        batch = Feed(mesh, tokens=16, micro_batches=2)(RESPONSES)
        where = shardings(state, mesh)
        state = jax.device_put(state, where)
        frozen = jax.device_put(frozen, shardings(frozen, mesh))
        compiled = jax.jit(
            on_mesh(mesh, step), out_shardings=(where, None), compiler_options=tiny.QUICKLY
        )
    for _ in range(2):
        state, metrics = compiled(state, frozen, batch)
    return state, metrics


@functools.cache
def on_one_device(objective: str, adapter: str) -> tuple[TrainState, dict]:
    return two_steps(objective, adapter)


@pytest.mark.parametrize(
    ("objective", "adapter", "mesh"),
    [
        *(("sft", "full", mesh) for mesh in MESHES),
        *(("rloo", "full", mesh) for mesh in MESHES),
        ("rloo", "lora", (2, 2, 2)),
        ("dpo", "full", (2, 2, 2)),
    ],
    ids=str,
)
def test_steps_on_a_mesh_are_those_on_one_device(objective, adapter, mesh):
    expected, expected_metrics = on_one_device(objective, adapter)
    state, metrics = two_steps(objective, adapter, mesh_of(*mesh))
    assert tiny.distance(state.params, expected.params) < 1e-6
    assert tiny.distance(state.opt_state, expected.opt_state) < 1e-6
    assert state.step == 2
    for name, mean in expected_metrics.items():
        np.testing.assert_allclose(metrics[name].value, mean.value, rtol=1e-5, err_msg=name)


def test_parameters_and_moments_are_cut_alike_and_over_the_whole_mesh():
    state = init_state(tiny.policy().params, OPTIMIZER)
    mesh = mesh_of(2, 2, 2)
    where = shardings(state, mesh)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec
        for path, sharding in jax.tree.leaves_with_path(where)
    }
    kernel = "layers/attention/q/kernel"
    same = [spec for name, spec in flat.items() if name.endswith(kernel)]
    assert same == [P(None, "fsdp", "tensor")] * 3
    placed = jax.device_put(state, where)
    q = placed.params["layers"]["attention"]["q"]["kernel"]
    assert q.addressable_shards[0].data.shape == (2, 32 // 2, 32 // 2)
    scale = placed.params["norm"]["scale"]
    assert scale.sharding.is_fully_replicated
    # Every matrix is cut: a rule that no name meets would leave it whole, unnoticed.
    whole = {name for name, spec in flat.items() if spec == P() and "kernel" in name}
    assert not whole


def test_rows_come_back_in_their_order():
    mesh = mesh_of(2, 2, 2)
    rows = np.arange(3 * 8 * 5, dtype=np.float32).reshape(3, 8, 5)
    placed = place_rows(rows, mesh)
    assert placed.addressable_shards[0].data.shape == (3, 2, 5)
    np.testing.assert_array_equal(local_rows(placed), rows)


def test_alone_a_process_uses_the_mesh_and_the_arrays_that_are_there():
    mesh, params = mesh_of(2, 2, 2), tiny.policy().params
    assert local_mesh(mesh) is mesh
    assert local_copy(params, mesh) is params


def test_among_others_a_process_has_whole_arrays_on_each_device_of_its_own(monkeypatch):
    mesh, params = mesh_of(2, 2, 2), tiny.policy().params
    cut = jax.device_put(params, shardings(params, mesh))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    local = local_mesh(mesh)
    assert (local.size, local.axis_names) == (8, ("local",))
    copy = local_copy(cut, mesh)
    tiny.assert_bit_equal(copy, params)
    for array in jax.tree.leaves(copy):
        assert array.sharding.mesh == local
        assert array.is_fully_replicated
        assert array.devices() == set(jax.devices())


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1), (2, -1, 3), (16, -1, 1), (1, 4, 1)])
def test_a_mesh_that_does_not_use_every_device_once_is_refused(shape):
    with pytest.raises(ValueError, match=r"but there are 8(.|\n)*config\.mesh"):
        mesh_of(*shape)


def test_the_default_mesh_takes_all_devices():
    assert dict(make_mesh().shape) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert dict(make_mesh(data=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


def test_parameters_that_do_not_divide_are_all_named():
    odd = dataclasses.replace(tiny.ARCHITECTURE, vocabulary=63, feed_forward=62)
    with pytest.raises(ValueError, match=r"config\.mesh") as error:
        shardings(tiny.policy(odd).params, mesh_of(1, 4, 2))
    message = str(error.value)
    assert "embed/embedding: 63 over tensor = 2" in message
    assert "layers/mlp/down/kernel: 62" not in message  # 62 divides over tensor = 2
    with pytest.raises(ValueError, match=r"down/kernel: 62 over tensor = 8(.|\n)*gate/kernel"):
        shardings(tiny.policy(odd).params, mesh_of(1, 1, 8))
