"""Checkpoints from and to Hugging Face, one tensor at a time.

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
from rlft_jax.models.convert_config import read_architecture, write_configs
from rlft_jax.models.lora import PROJECTIONS
from rlft_jax.models.qwen2 import Architecture
from rlft_jax.models.safetensors_files import Stored

Params = dict[str, Any]
Place = tuple[str, ...]

HF_PARENTS = {"attention": "self_attn", "mlp": "mlp"}
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
TIED_HEAD = "lm_head.weight"


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


def entries(a: Architecture) -> dict[Place, Entry]:
    """Returns all parameters of an architecture by their paths."""
    q_width, kv_width = a.heads * a.head_width, a.kv_heads * a.head_width
    kernels = {
        "q": (q_width, a.width),
        "k": (kv_width, a.width),
        "v": (kv_width, a.width),
        "o": (a.width, q_width),
        "gate": (a.feed_forward, a.width),
        "up": (a.feed_forward, a.width),
        "down": (a.width, a.feed_forward),
    }

    def stacked(name: str, *shape: int, is_transposed: bool = False) -> Entry:
        names = tuple(f"model.layers.{i}.{name}" for i in range(a.layers))
        return Entry(names, shape, True, is_transposed)

    result: dict[Place, Entry] = {
        ("embed", "embedding"): Entry(("model.embed_tokens.weight",), (a.vocabulary, a.width)),
        ("layers", "attention_norm", "scale"): stacked("input_layernorm.weight", a.width),
        ("layers", "mlp_norm", "scale"): stacked("post_attention_layernorm.weight", a.width),
        ("norm", "scale"): Entry(("model.norm.weight",), (a.width,)),
    }
    for theirs, (parent, child) in PROJECTIONS.items():
        path, name = ("layers", parent, child), f"{HF_PARENTS[parent]}.{theirs}"
        shape = kernels[child]
        result[(*path, "kernel")] = stacked(f"{name}.weight", *shape, is_transposed=True)
        if child in ("q", "k", "v"):
            result[(*path, "bias")] = stacked(f"{name}.bias", shape[0])
    if not a.tied:
        result["head", "embedding"] = Entry((TIED_HEAD,), (a.vocabulary, a.width))
    return result


def by_place(params: Params) -> dict[Place, Any]:
    """Returns the leaves of nested dicts by their paths."""
    return {place: cast(Any, leaf) for place, leaf in flatten_dict(params).items()}


def resolve(model: str, *, revision: str | None = None, with_weights: bool = True) -> Path:
    """Returns the folder of a checkpoint, downloaded first if `model` is a name on the hub.

    Only configs, tokenizers and safetensors are fetched; code and pickles never are.

    Args:
        with_weights: Whether to fetch safetensors; configs and tokenizers always are.

    Raises:
        ValueError: If it is neither a folder nor a checkpoint that the hub gives us.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    # The hub's client takes a second to import, and most runs read a folder.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    ignored = ["*/*"] if with_weights else ["*/*", "*.safetensors"]
    try:
        return Path(
            snapshot_download(
                model, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=ignored
            )
        )
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"{model!r} is no folder, and the hub does not give it to us ({error}). Check the name"
            " and the network, or point to a folder that `save_pretrained` wrote."
        ) from error


def load(folder: str | Path, *, shardings: Any = None, dtype: str = "float32") -> Params:
    """Returns a checkpoint's parameters, placed as they are read.

    Beyond the model itself, host memory holds at most one stacked parameter.

    Args:
        shardings: A tree like the parameters; without it all goes to the default device.
        dtype: Type of the parameters, whatever the files hold.

    Raises:
        ValueError: If the folder is not a whole and sound checkpoint of a known architecture;
            all that is wrong is listed, and nothing has been allocated.
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    tensors = safetensors_files.read_folder(folder)
    check(architecture, tensors, folder)
    placements = {} if shardings is None else by_place(shardings)
    return unflatten_dict(
        {
            path: _place(entry, tensors, placements.get(path), np.dtype(dtype))
            for path, entry in entries(architecture).items()
        }
    )


def check(architecture: Architecture, tensors: Mapping[str, Stored], folder: Path) -> None:
    """Refuses tensors that are not exactly the architecture's, listing everything wrong.

    Raises:
        ValueError: If a tensor is missing, left over, or has the wrong shape or dtype. Rotary
            frequencies and a tied head that repeats the embedding are not left over.
    """
    if architecture.layers > len(tensors):  # so that no list here is longer than the files' own
        raise ValueError(
            f"{folder} has {len(tensors)} tensors, too few for the num_hidden_layers ="
            f" {architecture.layers} of its config.json. Get it again."
        )
    wanted = {n: entry.shape for entry in entries(architecture).values() for n in entry.names}
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        if name in wanted:
            if tensor.shape != wanted[name]:
                problems.append(f"{name} is {list(tensor.shape)}, not {list(wanted[name])}")
            if tensor.dtype not in safetensors_files.DTYPES:
                known = ", ".join(safetensors_files.DTYPES)
                problems.append(f"{name} has dtype {tensor.dtype}, not one of {known}")
        elif name == TIED_HEAD:
            embedding = tensors.get("model.embed_tokens.weight")
            if embedding is not None and not _equal(tensor, embedding):
                problems.append(f"{name} differs from the embedding that config.json ties it to")
        elif not name.endswith(".rotary_emb.inv_freq"):
            problems.append(f"{name} is not part of this architecture")
    if problems:
        raise ValueError("\n- ".join([f"{folder} does not hold what its config says:", *problems]))


def _equal(a: Stored, b: Stored) -> bool:
    """Whether two stored matrices have the same values, holding a block of each."""
    known = safetensors_files.DTYPES
    if a.shape != b.shape or len(a.shape) != 2 or a.dtype not in known or b.dtype not in known:
        return False
    rows = max(safetensors_files.BLOCK_BYTES // (4 * a.shape[1]), 1)
    for row in range(0, a.shape[0], rows):
        index = (slice(row, row + rows), slice(None))
        blocks = np.empty((2, min(rows, a.shape[0] - row), a.shape[1]), np.float32)
        safetensors_files.read_into(blocks[0], a, index)
        safetensors_files.read_into(blocks[1], b, index)
        if not np.array_equal(blocks[0], blocks[1]):
            return False
    return True


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


def save(
    folder: Path,
    params: Params,
    architecture: Architecture,
    *,
    dtype: str = "bfloat16",
    source: Path | None = None,
    stop_ids: Sequence[int] = (),
    pad_id: int | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes weights and configs as `save_pretrained` does; the tokenizer's files are not ours.

    Args:
        folder: An existing one; see `new_folder.new_folder`.
        params: All of them, adapters merged.
        dtype: Type of the tensors in the files.
        source: The checkpoint that training began with, whose configs are carried over.
        stop_ids: Tokens that end a text, for the generation config; the source's if empty.
        pad_id: Likewise for padding.
        shard_bytes: Bytes of a file at which the next one begins.

    Raises:
        ValueError: If a parameter is not finite in `dtype`.
    """
    flat = by_place(params)
    table = entries(architecture)
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

    write_configs(
        folder, architecture, dtype=dtype, source=source, stop_ids=stop_ids, pad_id=pad_id
    )
    shapes = {name: entry.shape for name, (_, entry, _) in places.items()}
    safetensors_files.write(folder, shapes, tensor, dtype=dtype, shard_bytes=shard_bytes)


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
            " step, or with another config.export.dtype if values are too large for this one."
        )
    return x
