"""What config.json says of a reward model, as an architecture, and the other way round."""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlft_jax.models import deberta, distilbert
from rlft_jax.models.convert_config import described, is_positive, is_size, unlike
from rlft_jax.models.encoder import ACTIVATIONS

Fields = dict[str, Any]  # of an architecture

NOT_IMPLEMENTED = {"quantization_config": None, "auto_map": None}
DEBERTA_SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "max_positions": "max_position_embeddings",
}
DISTILBERT_SIZES = DEBERTA_SIZES | {
    "width": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "feed_forward": "hidden_dim",
}
TERMS = ("c2p", "p2c")


class Setting(NamedTuple):
    """A setting that may be left out: transformers' default, and what we can compute."""

    default: Any
    is_known: Callable[[Any], bool]
    known: str


def _flag(default: bool) -> Setting:
    return Setting(default, lambda x: isinstance(x, bool), "true or false")


def _only(default: Any, value: Any) -> Setting:
    return Setting(default, lambda x: x == value, f"{value!r}, the only one implemented")


def _count(default: int) -> Setting:
    return Setting(default, lambda x: type(x) is int, "a whole number")


def _activation(default: str) -> Setting:
    known = list(ACTIVATIONS)
    return Setting(default, lambda x: x in known, f"one of {', '.join(known)}")


def _split(terms: Any) -> Any:
    """The terms of `pos_att_type`, which may also be written `p2c|c2p`."""
    return terms.lower().split("|") if isinstance(terms, str) else terms


def _are_terms(terms: Any) -> bool:
    return isinstance(_split(terms), list) and all(term in TERMS for term in _split(terms))


DISTILBERT_SETTINGS = {
    "activation": _activation("gelu"),
    "sinusoidal_pos_embds": _only(False, False),
}
DEBERTA_SETTINGS = {
    "position_biased_input": _flag(True),
    "type_vocab_size": Setting(0, lambda x: type(x) is int and x >= 0, "a whole number"),
    "relative_attention": _only(False, True),
    "max_relative_positions": _count(-1),
    "position_buckets": _count(-1),
    "pos_att_type": Setting([], _are_terms, f"among {', '.join(TERMS)}"),
    "share_att_key": _flag(False),
    "norm_rel_ebd": Setting("none", ("none", "layer_norm").__contains__, "none or layer_norm"),
    "conv_kernel_size": Setting(0, lambda x: x == 0 or (is_size(x) and x % 2 == 1), "0 or odd"),
    "conv_groups": _only(1, 1),
    "conv_act": _activation("tanh"),
    "hidden_act": _activation("gelu"),
    "pooler_hidden_act": _activation("gelu"),
    "layer_norm_eps": Setting(1e-7, is_positive, "a positive number"),
}


def read_qwen2(config: Mapping[str, Any]) -> tuple[Fields, list[str]]:
    """The decoder and what is wrong with it. It has no head over tokens, tied or not."""
    fields, problems = described(dict(config))
    return fields | {"tied": True}, problems


def read_distilbert(config: Mapping[str, Any]) -> tuple[Fields, list[str]]:
    """A DistilBERT and what is wrong with it."""
    sizes, size_problems = _sizes(config, DISTILBERT_SIZES)
    settings, problems = _settings(config, DISTILBERT_SETTINGS)
    return sizes | {"activation": settings["activation"]}, size_problems + problems


def read_deberta(config: Mapping[str, Any]) -> tuple[Fields, list[str]]:
    """A DeBERTa of version 2 or 3 and what is wrong with it."""
    sizes, size_problems = _sizes(config, DEBERTA_SIZES)
    said, problems = _settings(config, DEBERTA_SETTINGS)
    if problems := size_problems + problems:
        return {}, problems
    width, max_distance = sizes["width"], said["max_relative_positions"]
    max_distance = max_distance if max_distance > 0 else sizes["max_positions"]
    buckets = max(said["position_buckets"], 0)
    derived = {"embedding_size": width, "pooler_hidden_size": width}
    problems = unlike(config, derived | {"attention_head_size": width // sizes["heads"]})
    if buckets and not 2 <= buckets < 2 * (max_distance - 1):
        problems.append(f"position_buckets = {buckets} for distances of up to {max_distance}")
    return sizes | {
        "has_positions": said["position_biased_input"],
        "types": said["type_vocab_size"],
        "max_distance": max_distance,
        "buckets": buckets,
        "terms": tuple(term for term in TERMS if term in _split(said["pos_att_type"])),
        "has_shared_keys": said["share_att_key"],
        "normalises_distances": said["norm_rel_ebd"] == "layer_norm",
        "conv_width": said["conv_kernel_size"],
        "conv_activation": said["conv_act"],
        "activation": said["hidden_act"],
        "pooler_activation": said["pooler_hidden_act"],
        "norm_epsilon": said["layer_norm_eps"],
    }, problems


def _settings(
    config: Mapping[str, Any], known: Mapping[str, Setting]
) -> tuple[dict[str, Any], list[str]]:
    """What a config says or leaves to the defaults, and what of it we cannot compute."""
    said = {
        key: setting.default if config.get(key) is None else config[key]
        for key, setting in known.items()
    }
    problems = [
        f"{key} = {said[key]!r}, not {setting.known}"
        for key, setting in known.items()
        if not setting.is_known(said[key])
    ]
    return said, problems + unlike(config, NOT_IMPLEMENTED)


def _sizes(config: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Fields, list[str]]:
    """The sizes of an encoder, and what is wrong with them."""
    sizes: Fields = {ours: config.get(theirs) for ours, theirs in names.items()}
    problems = [
        f"{names[ours]} = {value!r}, not a positive whole number"
        for ours, value in sizes.items()
        if not is_size(value)
    ]
    if not problems and sizes["width"] % sizes["heads"]:
        problems.append(
            f"{names['width']} = {sizes['width']} does not divide into {sizes['heads']} heads"
        )
    return sizes, problems


def distilbert_config(architecture: distilbert.Architecture) -> dict[str, Any]:
    """What `DistilBertConfig` says of an architecture."""
    return {
        "model_type": "distilbert",
        **{theirs: getattr(architecture, ours) for ours, theirs in DISTILBERT_SIZES.items()},
        "activation": architecture.activation,
        "sinusoidal_pos_embds": False,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "initializer_range": 0.02,
        "transformers_version": importlib.metadata.version("transformers"),
    }


def deberta_config(architecture: deberta.Architecture) -> dict[str, Any]:
    """What `DebertaV2Config` says of an architecture."""
    a = architecture
    return {
        "model_type": "deberta-v2",
        **{theirs: getattr(a, ours) for ours, theirs in DEBERTA_SIZES.items()},
        "relative_attention": True,
        "position_biased_input": a.has_positions,
        "type_vocab_size": a.types,
        "max_relative_positions": a.max_distance,
        "position_buckets": a.buckets or -1,
        "pos_att_type": list(a.terms),
        "share_att_key": a.has_shared_keys,
        "norm_rel_ebd": "layer_norm" if a.normalises_distances else "none",
        "conv_kernel_size": a.conv_width,
        "conv_act": a.conv_activation,
        "hidden_act": a.activation,
        "pooler_hidden_act": a.pooler_activation,
        "pooler_hidden_size": a.width,
        "pooler_dropout": 0,
        "layer_norm_eps": a.norm_epsilon,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "transformers_version": importlib.metadata.version("transformers"),
    }
