"""Tables between our parameters and Hugging Face's tensors, and both ways across them.

Parameters are nested dicts of arrays, as `nnx.to_pure_dict` gives them. Theirs are per layer and
`[out, in]`; ours are stacked over layers and `[L, in, out]`.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rlft_jax.models import safetensors_files
from rlft_jax.models.safetensors_files import Stored

Params = dict[str, Any]
Place = tuple[str, ...]


class Entry(NamedTuple):
    """One of our parameters and the tensors that make it up.

    Attributes:
        names: Theirs: one per layer, or a single one.
        shape: Of each of their tensors.
        is_stacked: Whether ours has an axis of layers in front.
        is_transposed: Whether theirs is [out, in] and ours [in, out].
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    is_stacked: bool = False
    is_transposed: bool = False

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """Shape of our parameter."""
        shape = self.shape[::-1] if self.is_transposed else self.shape
        return (len(self.names), *shape) if self.is_stacked else shape


def by_place(params: Params) -> dict[Place, Any]:
    """Returns the leaves of nested dicts by their paths."""
    return {place: cast(Any, leaf) for place, leaf in flatten_dict(params).items()}


def check_layers(
    layers: int, tensors: Mapping[str, Stored], folder: Path, *, key: str = "num_hidden_layers"
) -> None:
    """Refuses more layers than tensors, so that no list is longer than the files' own."""
    if layers > len(tensors):
        raise ValueError(
            f"{folder} has {len(tensors)} tensors, too few for the {key} ="
            f" {layers} of its config.json. Get it again."
        )


def differences(
    table: Mapping[Place, Entry], tensors: Mapping[str, Stored]
) -> tuple[list[str], list[str]]:
    """What is wrong with the tensors that a table names, and which ones it does not name."""
    wanted = {name: entry.shape for entry in table.values() for name in entry.names}
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    for name in [name for name in tensors if name in wanted]:
        tensor = tensors[name]
        if tensor.shape != wanted[name]:
            problems.append(f"{name} is {list(tensor.shape)}, not {list(wanted[name])}")
        if tensor.dtype not in safetensors_files.DTYPES:
            known = ", ".join(safetensors_files.DTYPES)
            problems.append(f"{name} has dtype {tensor.dtype}, not one of {known}")
    return problems, [name for name in tensors if name not in wanted]


def refuse(problems: Sequence[str], folder: Path) -> None:
    """Raises a ValueError that lists the problems of a folder's tensors, if there are any."""
    if problems:
        raise ValueError("\n- ".join([f"{folder} does not hold what its config says:", *problems]))


def place(
    table: Mapping[Place, Entry],
    tensors: Mapping[str, Stored],
    *,
    shardings: Any = None,
    dtype: str = "float32",
) -> Params:
    """Returns the parameters of a table, each placed as it is read."""
    where = {} if shardings is None else by_place(shardings)
    return unflatten_dict(
        {
            path: _place(entry, tensors, where.get(path), np.dtype(dtype))
            for path, entry in table.items()
        }
    )


def _place(
    entry: Entry, tensors: Mapping[str, Stored], sharding: Any, dtype: np.dtype
) -> jax.Array:
    """One parameter on its devices; done when it returns, so that the host's copy can go."""
    shape = entry.stacked_shape

    @functools.cache  # devices that hold the same part share what was read
    def read(bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
        index = [slice(*bound) for bound in bounds]
        out = np.empty([stop - start for start, stop in bounds], dtype)
        names = entry.names[index.pop(0)] if entry.is_stacked else entry.names
        if entry.is_transposed:
            index.reverse()
        for layer, name in zip(out if entry.is_stacked else [out], names, strict=True):
            target = layer.T if entry.is_transposed else layer
            safetensors_files.read_into(target, tensors[name], tuple(index))
        return out

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        return read(tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True)))

    if sharding is None:
        array = jax.device_put(part((slice(None),) * len(shape)))
    else:
        array = jax.make_array_from_callback(shape, sharding, part)
    return array.block_until_ready()


def write(
    folder: Path,
    params: Params,
    table: Mapping[Place, Entry],
    *,
    dtype: str,
    stem: str = "model",
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes the parameters of a table under its names, one tensor at a time.

    Args:
        dtype: Type of the tensors in the files.
        stem: What the files are called.
        shard_bytes: Bytes of a file at which the next one begins.

    Raises:
        ValueError: If a parameter is not finite in `dtype`.
    """
    flat = by_place(params)
    ours = {path: tuple(x.shape) for path, x in flat.items()}
    assert ours == {path: entry.stacked_shape for path, entry in table.items()}, ours
    places = {
        name: (path, entry, i)
        for path, entry in table.items()
        for i, name in enumerate(entry.names)
    }

    def tensor(name: str) -> np.ndarray:
        path, entry, i = places[name]
        x = flat[path][i] if entry.is_stacked else flat[path]
        x = to_host(x, dtype, name)
        return x.T if entry.is_transposed else x

    shapes = {name: entry.shape for name, (_, entry, _) in places.items()}
    safetensors_files.write(folder, shapes, tensor, dtype=dtype, stem=stem, shard_bytes=shard_bytes)


def to_host(x: Any, dtype: str, name: str) -> np.ndarray:
    """Returns an array on the host in another type, rounded to nearest on its device.

    Raises:
        ValueError: If a value is not finite, or not in that type.
    """
    with np.errstate(over="ignore"):
        x = np.asarray(x.astype(np.dtype(dtype)))
    if not np.isfinite(x).all():
        raise ValueError(
            f"{name} is not finite in {dtype}, so the export would be broken. Export an earlier"
            " --step, or with another --dtype if its values are too large for this one."
        )
    return x
