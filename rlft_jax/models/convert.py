"""Checkpoints of Qwen2 from and to Hugging Face, one tensor at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlft_jax.models import safetensors_files
from rlft_jax.models.convert_config import read_architecture, write_configs
from rlft_jax.models.lora import PROJECTIONS
from rlft_jax.models.qwen2 import Architecture
from rlft_jax.models.safetensors_files import Stored
from rlft_jax.models.tensor_table import (
    Entry,
    Params,
    Place,
    check_layers,
    differences,
    place,
    refuse,
    write,
)

HF_PARENTS = {"attention": "self_attn", "mlp": "mlp"}
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
TIED_HEAD = "lm_head.weight"
ROTARY_BUFFER = ".rotary_emb.inv_freq"


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
    return place(entries(architecture), tensors, shardings=shardings, dtype=dtype)


def check(architecture: Architecture, tensors: Mapping[str, Stored], folder: Path) -> None:
    """Refuses tensors that are not exactly the architecture's, listing everything wrong.

    Raises:
        ValueError: If a tensor is missing, left over, or has the wrong shape or dtype. Rotary
            frequencies and a tied head that repeats the embedding are not left over.
    """
    check_layers(architecture.layers, tensors, folder)
    problems, beyond = differences(entries(architecture), tensors)
    for name in beyond:
        if name == TIED_HEAD:
            embedding = tensors.get("model.embed_tokens.weight")
            if embedding is not None and not _equal(tensors[name], embedding):
                problems.append(f"{name} differs from the embedding that config.json ties it to")
        elif not name.endswith(ROTARY_BUFFER):
            problems.append(f"{name} is not part of this architecture")
    refuse(problems, folder)


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
    write_configs(
        folder, architecture, dtype=dtype, source=source, stop_ids=stop_ids, pad_id=pad_id
    )
    write(folder, params, entries(architecture), dtype=dtype, shard_bytes=shard_bytes)
