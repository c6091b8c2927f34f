"""Checkpoints for tests: random ones, their raw bytes, and ways to spoil them."""

import json
import struct
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from rlft_jax.models import convert, safetensors_files
from rlft_jax.models.convert_config import SIZES
from rlft_jax.models.qwen2 import Architecture
from tests.models.qwen2_models import TINY, random_params


def export(
    folder: Path, architecture: Architecture = TINY, *, dtype: str = "float32", **settings
) -> convert.Params:
    """Writes a random model; returns its parameters, exact in `dtype`."""
    params = random_params(architecture)
    params = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), params)
    folder.mkdir(parents=True, exist_ok=True)
    convert.save(folder, params, architecture, dtype=dtype, **settings)
    return params


def raw(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor, as the safetensors library reads them."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                tensors[name] = data[8 + length + first : 8 + length + last]
    return tensors


def write_random(folder: Path, architecture: Architecture, seed: int = 0) -> None:
    """A bfloat16 checkpoint of random tensors, written one by one."""
    rng = np.random.default_rng(seed)
    shapes = {n: e.shape for e in convert.entries(architecture).values() for n in e.names}
    tensor = lambda name: (0.02 * rng.standard_normal(shapes[name], np.float32)).astype(
        ml_dtypes.bfloat16
    )
    safetensors_files.write(folder, shapes, tensor, dtype="bfloat16")
    config = {theirs: getattr(architecture, ours) for ours, theirs in SIZES.items()}
    config |= {"model_type": "qwen2", "tie_word_embeddings": architecture.tied}
    config |= {"rope_theta": architecture.rope_theta, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))


def change_config(folder: Path, **changes) -> None:
    """Sets keys of config.json; None deletes them."""
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder: Path, **changes: np.ndarray | None) -> None:
    """Replaces tensors, adds them, or with None removes them; `__` stands for a dot."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, value in changes.items():
        name = name.replace("__", ".")
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, file)
