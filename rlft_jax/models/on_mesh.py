"""Functions that devices of a mesh compute their own part of, where no compiler can cut them up."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

TENSOR = "tensor"


def on_mesh(mesh: Mesh | None, function: Callable) -> Callable:
    """`function`, to be compiled for `mesh`: what is `divided` in it is so over its devices."""
    if mesh is None:
        return function

    @functools.wraps(function)
    def call(*args, **named):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **named)

    return call


def row_axes(rows: int) -> tuple[str, ...] | None:
    """The axes of the mesh that so many rows are dealt over; None if all devices have them all."""
    sizes = {axis: size for axis, size in _sizes().items() if axis != TENSOR}
    return tuple(sizes) if sizes and rows % math.prod(sizes.values()) == 0 else None


def tensor_axis(parts: int) -> str | None:
    """The axis that so many heads, or tokens of a vocabulary, are dealt over, or None."""
    size = _sizes().get(TENSOR)
    return TENSOR if size and parts % size == 0 else None


def divided(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """`function`, called by each device with its parts of arguments, for its part of results."""
    if not _sizes():
        return function
    # Not checked: that results are the same where devices repeat them.
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _sizes() -> dict[str, int]:
    """The mesh's axes that divide anything."""
    mesh = jax.sharding.get_abstract_mesh()
    return {axis: size for axis, size in mesh.shape.items() if size > 1}
