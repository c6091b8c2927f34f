"""States to save, and what tests of checkpoints ask of them and of folders."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from rlft_jax.training.checkpoint import Checkpoints


class State(NamedTuple):
    """Stands for a train state: a tuple of dictionaries, several dtypes, optax's own classes."""

    step: Array
    params: PyTree
    opt_state: PyTree


def mesh_of(*shape: int) -> jax.sharding.Mesh:
    axes = ("fsdp", "tensor")[: len(shape)]
    return jax.make_mesh(shape, axes, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


def make_state(step: int = 0, mesh: jax.sharding.Mesh | None = None) -> State:
    key = jax.random.key(step)
    params = {
        "layers": {"kernel": jax.random.normal(key, (16, 8, 8))},
        "embedding": jax.random.normal(key, (8, 24), jnp.bfloat16),
        "mask": jnp.array([True, False]),
    }
    if mesh is not None:
        place = lambda x: jax.device_put(x, NamedSharding(mesh, spec_of(x, mesh)))
        params = jax.tree.map(place, params)
    floats = {name: params[name] for name in ("layers", "embedding")}
    return State(jnp.int32(step), params, optax.adamw(1e-3).init(floats))


def spec_of(array: Array | jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh) -> P:
    """The last axes over the mesh, as far as there are axes of enough size."""
    return P(*[None] * (array.ndim - 2), *mesh.axis_names[:2]) if array.ndim >= 2 else P()


def like(state: PyTree, mesh: jax.sharding.Mesh | None = None) -> PyTree:
    def of(x: Array) -> jax.ShapeDtypeStruct:
        sharding = x.sharding if mesh is None else NamedSharding(mesh, spec_of(x, mesh))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(of, state)


def assert_same_bits(actual: PyTree, expected: PyTree) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(checkpoints: Checkpoints, *steps: int, metric: float | None = None) -> None:
    for step in steps:
        extra = {"config": "abc", "at": step}
        checkpoints.save(step, make_state(step), {"position": step}, extra=extra, metric=metric)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def largest_file(step: Path) -> Path:
    files = [path for path in (step / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip_bit(step: Path) -> None:
    content = bytearray(largest_file(step).read_bytes())
    content[len(content) // 2] ^= 1
    largest_file(step).write_bytes(content)
