"""Where arrays lie on a mesh of (data, fsdp, tensor): one table of rules.

Rows of a batch are dealt over `data` and `fsdp`; parameters and the optimizer's moments are cut
over `fsdp` and `tensor`, and repeated over `data`.
"""

import functools
import re
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

ROWS = ("data", "fsdp")

# The first pattern found in a parameter's path decides. Optimizer moments have their
# parameter's path inside their own, so they follow it.
RULES = [
    (r"lora/[ab]$", P()),
    (r"(embed|head|embed/tokens)/embedding$", P("tensor", "fsdp")),  # V D
    (r"(positions|types|distances)/embedding$", P(None, "fsdp")),  # few, D
    (r"layers/attention/(distance_)?[qkv]/kernel$", P(None, "fsdp", "tensor")),  # L D (N H)
    (r"layers/attention/o/kernel$", P(None, "tensor", "fsdp")),  # L (N H) D
    (r"layers/mlp/(gate|up)/kernel$", P(None, "fsdp", "tensor")),  # L D F
    (r"layers/mlp/down/kernel$", P(None, "tensor", "fsdp")),  # L F D
    (r"pooler/kernel$", P("fsdp", "tensor")),  # D D
    (r"conv/kernel$", P(None, "fsdp", "tensor")),  # W D D
    (r"", P()),  # norms, biases and counters are small: everywhere
]


def make_mesh(*, data: int = 1, fsdp: int = -1, tensor: int = 1) -> Mesh:
    """Arranges all devices as data x fsdp x tensor.

    Args:
        data: Copies of the model that share a batch.
        fsdp: Devices that share a batch and cut up the parameters; -1 takes what is left.
        tensor: Devices that share every matrix product.

    Raises:
        ValueError: If that does not use every device exactly once.
    """
    devices = jax.device_count()
    if fsdp == -1:
        fsdp = max(devices // (data * tensor), 1)
    if data * fsdp * tensor != devices:
        raise ValueError(
            f"A mesh of data x fsdp x tensor = {data} x {fsdp} x {tensor} needs"
            f" {data * fsdp * tensor} devices, but there are {devices}."
            " Change config.mesh; fsdp = -1 takes what the others leave."
        )
    if jax.local_device_count() % tensor:
        raise ValueError(
            f"config.mesh.tensor = {tensor} does not divide the {jax.local_device_count()} devices"
            " of a process. Matrix products are not shared between processes; lower it."
        )
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh((data, fsdp, tensor), axes, axis_types=(AxisType.Auto,) * 3)


def spec(path: str) -> P:
    """The rule for the parameter at `path`, its parts joined by slashes."""
    return next(spec for pattern, spec in RULES if re.search(pattern, path))


def shardings(tree: PyTree, mesh: Mesh) -> PyTree[NamedSharding]:
    """The sharding of every leaf of parameters, or of a train state.

    Raises:
        ValueError: If an axis of an array does not divide over its part of the mesh.
    """
    problems = []

    def of(path: tuple, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        sharding = NamedSharding(mesh, spec(name))
        for size, axis in zip(leaf.shape, sharding.spec):
            if axis and size % mesh.shape[axis]:
                problems.append(f"{name}: {size} over {axis} = {mesh.shape[axis]}")
        return sharding

    result = jax.tree.map_with_path(of, tree)
    if problems:
        raise ValueError(
            "These parameters do not divide over config.mesh:\n- " + "\n- ".join(problems)
        )
    return result


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def row_shards(mesh: Mesh) -> int:
    """How many parts the rows of a batch are dealt into on this process' devices."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return max(parts // jax.process_count(), 1)


def place_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """Puts this process' rows `[M, R, ...]` on the mesh, where they join those of the others."""
    sharding = NamedSharding(mesh, P(None, ROWS))
    return jax.make_array_from_process_local_data(sharding, rows)


def local_rows(rows: jax.Array) -> np.ndarray:
    """This process' part of rows `[M, R, T]` on the mesh: the inverse of `place_rows`."""
    parts = {shard.index[1].start or 0: shard.data for shard in rows.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)], axis=1)


def local_mesh(mesh: Mesh) -> Mesh:
    """The devices of this process alone; the mesh itself where there is no other process."""
    if jax.process_count() == 1:
        return mesh
    return Mesh(np.array(mesh.local_devices), ("local",), axis_types=(AxisType.Auto,))


def local_copy(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays on `local_mesh(mesh)`: with other processes around, a copy on each of its devices.

    All processes have to call this together, as they give each other their parts.
    """
    if jax.process_count() == 1:
        return tree
    everywhere = replicated(local_mesh(mesh))

    def local(x: jax.Array) -> jax.Array:
        copies = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, copies)

    return jax.tree.map(local, _gatherer(mesh)(tree))


@functools.cache
def _gatherer(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    """One compiled program for all calls."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
