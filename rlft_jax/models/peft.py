"""Adapters from and to the format of PEFT, and their merging into full weights."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from rlft_jax.models import safetensors_files
from rlft_jax.models.convert import HF_PARENTS, entries
from rlft_jax.models.convert_config import is_size, read_json, write_json
from rlft_jax.models.lora import PROJECTIONS, Settings
from rlft_jax.models.qwen2 import Architecture
from rlft_jax.models.safetensors_files import Stored
from rlft_jax.models.tensor_table import (
    Entry,
    Params,
    Place,
    by_place,
    differences,
    write,
)

# Settings that say nothing about the function that an adapter computes, or say it only where
# another one, which we refuse, switches it on.
WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
}
UNDERSTOOD = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": ("none",),
    # Others change the base's weights too.
    "init_lora_weights": (True, False, "gaussian"),
}
OURS = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"}


def merge(params: Params, adapter: Params, *, scale: float) -> Params:
    """Returns full parameters, kernel + scale * a @ b in float32 where there is an adapter."""
    flat, low_rank = by_place(params), by_place(adapter)
    for path in sorted({path[:-2] for path in low_rank}):
        a, b = low_rank[(*path, "lora", "a")], low_rank[(*path, "lora", "b")]
        flat[(*path, "kernel")] = _merged(flat[(*path, "kernel")], a, b, scale=scale)
    return unflatten_dict(flat)


@functools.partial(jax.jit, static_argnames="scale")
def _merged(kernel: jax.Array, a: jax.Array, b: jax.Array, *, scale: float) -> jax.Array:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    update = scale * jnp.matmul(a, b, precision="highest")
    return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)


def save(
    folder: Path,
    adapter: Params,
    settings: Settings,
    *,
    base: str = "",
    dtype: str = "float32",
) -> None:
    """Writes an adapter that `peft.PeftModel.from_pretrained` loads.

    Args:
        folder: An existing one; see `new_folder.new_folder`.
        adapter: The parameters named `lora` in their places.
        base: Name or folder of the model that it belongs to.
    """
    flat = by_place(adapter)
    layers, *_ = next(iter(flat.values())).shape
    shape = lambda target, side: flat[_path(target, side)].shape[:0:-1]
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "peft_type": "LORA",
        "r": settings.rank,
        "target_modules": list(settings.names),
        "task_type": "CAUSAL_LM",
        "use_rslora": settings.rslora,
    }
    write_json(folder / "adapter_config.json", config)
    table = _entries(settings.names, layers, shape)
    write(folder, adapter, table, dtype=dtype, stem="adapter_model")


def load(folder: str | Path, architecture: Architecture) -> tuple[Settings, Params]:
    """Returns an adapter's settings, for `lora.add`, and its float32 parameters on the host.

    Raises:
        ValueError: If it is not a plain LoRA of projections in all layers; everything that is
            wrong is listed.
    """
    folder = Path(folder)
    config = read_json(folder / "adapter_config.json")
    tensors = safetensors_files.read_folder(folder, stem="adapter_model")
    targets = tuple(t for t in PROJECTIONS if any(f".{t}.lora_" in name for name in tensors))
    kernels, rank = entries(architecture), config.get("r")
    rank = rank if is_size(rank) else 0

    def shape(target: str, side: str) -> tuple[int, ...]:
        d_out, d_in = kernels["layers", *PROJECTIONS[target], "kernel"].shape
        return (rank, d_in) if side == "a" else (d_out, rank)

    table = _entries(targets, architecture.layers, shape)
    problems = _config_problems(config) + _tensor_problems(table, tensors)
    if problems:
        raise ValueError(
            "\n- ".join([f"{folder} is not an adapter of this model that we can use:", *problems])
        )
    settings = Settings(
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        dropout=float(config.get("lora_dropout", 0.0)),
        rslora=config.get("use_rslora", False),
        targets=targets,
    )
    flat = {path: np.empty(entry.stacked_shape, np.float32) for path, entry in table.items()}
    for path, entry in table.items():
        for layer, name in zip(flat[path], entry.names, strict=True):
            safetensors_files.read_into(layer.T, tensors[name], (slice(None), slice(None)))
    return settings, unflatten_dict(flat)


def _path(target: str, side: str) -> Place:
    return ("layers", *PROJECTIONS[target], "lora", side)


def _entries(
    targets: Sequence[str], layers: int, shape: Callable[[str, str], tuple[int, ...]]
) -> dict[Place, Entry]:
    """The parameters of an adapter, given the shape of PEFT's tensor of a target and a side."""
    table = {}
    for target in targets:
        for side in ("a", "b"):
            module = f"{HF_PARENTS[PROJECTIONS[target][0]]}.{target}.lora_{side.upper()}"
            stem = "base_model.model.model.layers"
            names = tuple(f"{stem}.{i}.{module}.weight" for i in range(layers))
            table[_path(target, side)] = Entry(names, shape(target, side), True, True)
    return table


def _config_problems(config: dict[str, Any]) -> list[str]:
    """Whatever is switched on in adapter_config.json and not understood here."""
    problems = [
        f"{key} = {config.get(key)!r}, only {' or '.join(map(repr, values))} is implemented"
        for key, values in UNDERSTOOD.items()
        if config.get(key, values[0]) not in values
    ]
    rest = config.keys() - OURS - WITHOUT_EFFECT - UNDERSTOOD.keys()
    problems += [
        f"{key} = {config[key]!r} is not implemented" for key in sorted(rest) if config[key]
    ]
    for key in ("r", "lora_alpha"):
        if type(config.get(key)) not in (int, float) or config[key] <= 0:
            problems.append(f"{key} = {config.get(key)!r}, not a positive number")
    return problems


def _tensor_problems(table: Mapping[Place, Entry], tensors: Mapping[str, Stored]) -> list[str]:
    """Tensors that are missing, left over, or of wrong shape or dtype."""
    problems, beyond = differences(table, tensors)
    for name in beyond:
        if "embed_tokens" in name or "lm_head" in name:
            problems.append(f"{name} adapts the embedding or the head, which takes no adapter here")
        else:
            problems.append(f"{name} is not part of an adapter of this model")
    return problems or ([] if table else ["it has no tensors"])
