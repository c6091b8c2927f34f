"""The compiled programs of a sampler."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.sampling import decoding
from rlft_jax.sampling.filters import Filter
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.sampling.weights import Weights, decode_weights


class Programs(NamedTuple):
    """Functions of `decoding`, compiled for the shapes that they meet.

    Attributes:
        place: Puts arrays with an axis of prompts in front where `prefill` wants them.
    """

    weights: Callable[..., Weights]
    place: Callable[..., Any]
    prefill: Callable[..., decoding.Prompts]
    free_rows: Callable[..., decoding.Rows]
    admit: Callable[..., decoding.Rows]
    chosen: Callable[..., decoding.Rows]
    widened: Callable[..., decoding.Rows]
    decode: Callable[..., tuple[decoding.Rows, jax.Array, jax.Array]]


def programs(
    graph: nnx.GraphDef,
    settings: SamplingSettings,
    *,
    filters: Sequence[Filter] = (),
    mesh: Mesh | None = None,
) -> Programs:
    """Programs for one model and one way of sampling; rows are dealt over all axes of a mesh."""
    place = lambda *axes: None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))
    everywhere, rows = place(), place(mesh.axis_names) if mesh else None
    prefill = functools.partial(
        on_mesh(mesh, decoding.prefill),
        graph=graph,
        with_seen=settings.repetition_penalty != 1,
        cache_dtype=settings.cache_dtype,
    )
    decode = functools.partial(
        decoding.decode,
        graph=graph,
        steps=settings.steps,
        temperature=settings.temperature,
        repetition_penalty=settings.repetition_penalty,
        filters=[*settings.filters, *filters],
        cache_dtype=settings.cache_dtype,
    )
    jit = functools.partial(jax.jit, out_shardings=rows)
    return Programs(
        weights=jax.jit(functools.partial(decode_weights, graph=graph), out_shardings=everywhere),
        place=lambda arrays: arrays if rows is None else jax.device_put(arrays, rows),
        prefill=jit(prefill),
        free_rows=jit(decoding.free_rows, static_argnames=("rows", "columns")),
        admit=jit(decoding.admit, donate_argnames="rows"),
        chosen=jit(decoding.chosen),
        widened=jit(decoding.widened, static_argnames="columns"),
        decode=jit(decode, donate_argnames="rows"),
    )
