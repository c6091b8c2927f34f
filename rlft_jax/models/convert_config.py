"""The JSON files beside a checkpoint's weights: what architecture it is, and how it generates."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from rlft_jax.models.qwen2 import Architecture

# Our sizes and constants under Hugging Face's names.
SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "feed_forward": "intermediate_size",
    "head_width": "head_dim",
    "max_positions": "max_position_embeddings",
}
# Settings that change the forward pass, with the only values that `Qwen2` computes.
REQUIRED = {
    "hidden_act": "silu",
    "use_sliding_window": False,
    "use_mrope": False,
    "quantization_config": None,
    "auto_map": None,
}


def read_architecture(folder: Path) -> Architecture:
    """Returns the architecture that a folder's config.json describes.

    Raises:
        ValueError: If it is not Qwen2 as this project computes it; all differences are listed.
    """
    file = Path(folder) / "config.json"
    config = read_json(file)
    if config.get("model_type") != "qwen2":
        raise ValueError(
            f"{file} describes the unknown architecture {config.get('model_type')!r}."
            " Choose a checkpoint of Qwen2 or Qwen2.5, whose model_type is 'qwen2'."
        )
    fields, problems = described(config)
    if config.get("architectures") not in (None, ["Qwen2ForCausalLM"]):
        problems.append(f"architectures = {config['architectures']}, not ['Qwen2ForCausalLM']")
    refuse(problems, file)
    return Architecture(**fields)


def refuse(problems: list[str], file: Path) -> None:
    """Raises a ValueError that lists what is wrong with a config, if anything is."""
    if problems:
        raise ValueError("\n- ".join([f"{file} describes no known architecture:", *problems]))


def described(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The Qwen2 that a config describes, whatever its head, and what is wrong with it."""
    problems = unlike(config, REQUIRED)
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        problems.append(f"layer_types = {kinds}, not all 'full_attention'")
    theta, rope_problems = _rope_theta(config)
    sizes = _sizes(config)
    has_head_width = config.get("head_dim") is not None
    problems += rope_problems + _size_problems(sizes, has_head_width=has_head_width)
    epsilon, tied = config.get("rms_norm_eps", 1e-6), config.get("tie_word_embeddings", False)
    if not is_positive(epsilon):
        problems.append(f"rms_norm_eps = {epsilon!r}, not a positive number")
    if not isinstance(tied, bool):
        problems.append(f"tie_word_embeddings = {tied!r}, neither true nor false")
    return sizes | {"rope_theta": theta, "norm_epsilon": epsilon, "tied": tied}, problems


def unlike(config: Mapping[str, Any], required: Mapping[str, Any]) -> list[str]:
    """Which settings of a config have another value than the only one implemented."""
    return [
        f"{key} = {config[key]!r}, only {value!r} is implemented"
        for key, value in required.items()
        if key in config and config[key] != value
    ]


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of an architecture, whatever they are; those that may be left out filled in."""
    sizes = {ours: config.get(theirs) for ours, theirs in SIZES.items()}
    width, heads = sizes["width"], sizes["heads"]
    sizes["max_positions"] = config.get("max_position_embeddings", 32_768)
    if sizes["kv_heads"] is None and "num_key_value_heads" in config:
        sizes["kv_heads"] = heads
    if sizes["head_width"] is None and is_size(width) and is_size(heads):
        sizes["head_width"] = width // heads
    return sizes


def _size_problems(sizes: dict[str, Any], *, has_head_width: bool) -> list[str]:
    """What is wrong with an architecture's sizes."""
    problems = [
        f"{SIZES[name]} = {value!r}, not a positive whole number"
        for name, value in sizes.items()
        if not is_size(value)
    ]
    if problems:
        return problems
    width, heads, kv_heads = sizes["width"], sizes["heads"], sizes["kv_heads"]
    if width % heads and not has_head_width:
        problems.append(f"hidden_size = {width} does not divide into {heads} heads")
    if heads % kv_heads:
        problems.append(
            f"num_attention_heads = {heads} does not divide into num_key_value_heads = {kv_heads}"
        )
    if sizes["head_width"] % 2:
        problems.append(f"head_dim = {sizes['head_width']} is odd, so halves cannot be rotated")
    return problems


def is_size(x: Any) -> TypeGuard[int]:
    """Whether a value from JSON is a positive whole number."""
    return type(x) is int and x > 0


def _rope_theta(config: dict[str, Any]) -> tuple[Any, list[str]]:
    """The base of the rotary frequencies, as transformers 4 or 5 writes it."""
    rope = {}
    for key in ("rope_parameters", "rope_scaling"):
        said = config.get(key) or {}
        if not isinstance(said, dict):
            return None, [f"{key} = {said!r}, not an object"]
        rope |= said
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    problems = []
    if kind != "default" or rope.keys() - {"rope_theta", "rope_type", "type"}:
        problems.append(f"rotary positions are {rope}, only rope_type 'default' is implemented")
    if not is_positive(theta):
        return None, [*problems, f"rope_theta = {theta!r}, not a positive number"]
    return float(theta), problems


def is_positive(x: Any) -> bool:
    """Whether a value from JSON is a positive number."""
    return type(x) in (int, float) and 0 < x < float("inf")


def write_configs(
    folder: Path,
    architecture: Architecture,
    *,
    dtype: str,
    source: Path | None,
    stop_ids: Sequence[int],
    pad_id: int | None,
) -> None:
    """Writes config.json and generation_config.json, the source's where there is one.

    Whatever the source's files say and we do not know of is kept.

    Raises:
        ValueError: If the source is another architecture.
    """
    ids: dict[str, Any] = {"pad_token_id": pad_id} if pad_id is not None else {}
    if stop_ids:
        ids["eos_token_id"] = stop_ids[0] if len(stop_ids) == 1 else list(stop_ids)
    if source is None:
        config = config_of(architecture) | ids
    else:
        config = carried_over(source, read_architecture(source), architecture)
        config.setdefault("architectures", ["Qwen2ForCausalLM"])
    # transformers 5 says dtype, what came before torch_dtype.
    config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    generation = {key: config[key] for key in GENERATION_IDS if config.get(key) is not None}
    generation["transformers_version"] = importlib.metadata.version("transformers")
    if source is not None and (source / "generation_config.json").exists():
        generation = read_json(source / "generation_config.json")
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation | ids)


def carried_over(source: Path, theirs: Any, ours: Any) -> dict[str, Any]:
    """Returns the config of the checkpoint that training began with.

    Raises:
        ValueError: If its architecture, `theirs`, is not the one to export.
    """
    if theirs != ours:
        raise ValueError(
            f"{source} is {theirs}, the model to export is {ours}."
            " Export with the checkpoint that training began with."
        )
    return read_json(source / "config.json")


GENERATION_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def config_of(architecture: Architecture) -> dict[str, Any]:
    """What `Qwen2Config` says of an architecture, readable by transformers 4 and 5."""
    a = architecture
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **{theirs: getattr(a, ours) for ours, theirs in SIZES.items()},
        "hidden_act": "silu",
        "rms_norm_eps": a.norm_epsilon,
        "rope_theta": a.rope_theta,
        "rope_parameters": {"rope_theta": a.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": a.tied,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "transformers_version": importlib.metadata.version("transformers"),
    }


def read_json(file: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        ValueError: If there is none.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{file.parent} has no {file.name}. Point to a folder that `save_pretrained` wrote."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}. Get it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a JSON object. Get it again.")
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes an object as Hugging Face does: indented, keys in order."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
