"""What follows from a resolved config: facts that more than one of its settings decide."""

from collections.abc import Callable, Mapping
from typing import Any

from rlft_jax import rewards
from rlft_jax.objectives import dpo
from rlft_jax.selection import GROUP
from rlft_jax.training import retention
from rlft_jax.training.retention import Mode


def at(config: Mapping[str, Any], setting: str) -> Any:
    """The value of a dotted setting; None where there is no such section, or setting in it."""
    section, _, name = setting.rpartition(".")
    return ((config[section] or {}) if section else config).get(name)


# Settings that name a file, a folder or a checkpoint, besides those in lists and mappings.
PATHS = (("model", "path"), ("lora", "path"), ("data", "path"), ("data", "heldout_path"))


def with_paths(config: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The config with another name for each file, folder and checkpoint that it names."""
    changed: dict[str, Any] = {
        section: dict(value) if isinstance(value, Mapping) else value
        for section, value in config.items()
    }
    data, reward = changed.get("data") or {}, changed.get("reward") or {}
    for section, name in PATHS:
        named = changed.get(section) or {}
        if named.get(name):
            named[name] = change(named[name])
    if changed.get("reference"):
        changed["reference"] = change(changed["reference"])
    if data.get("mixture"):
        data["mixture"] = [{**part, "path": change(part["path"])} for part in data["mixture"]]
    if reward.get("models"):
        reward["models"] = {name: change(path) for name, path in reward["models"].items()}
    return changed


def is_rl(config: Mapping[str, Any]) -> bool:
    """Whether a run's responses are the policy's own."""
    return config["rollout"] is not None


def answers(config: Mapping[str, Any]) -> int:
    """Responses to each held-out problem; 0 where none is measured."""
    samples = config["evaluation"]["samples"]
    return int(is_rl(config)) if samples is None else samples


def drawing(config: Mapping[str, Any]) -> dict[str, Any]:
    """How rollouts are drawn, whatever computes and scores them."""
    apart = ("dtype", "rescore")
    return {name: value for name, value in config["sampling"].items() if name not in apart}


def answering(config: Mapping[str, Any]) -> dict[str, Any]:
    """How held-out problems are answered: as an evaluation says, and otherwise like a rollout."""
    own = {
        name: config["evaluation"][name]
        for name in ("max_new_tokens", "temperature", "top_p", "top_k")
    }
    shared = ("stop_strings", "batch_rows", "chunk", "cache_dtype")
    return own | {name: config["sampling"][name] for name in shared if is_rl(config)}


def reward_weights(config: Mapping[str, Any]) -> Mapping[str, int | float]:
    """The weights of all rewards of a run, by name; none where nothing is rewarded."""
    section = config["reward"]
    return {} if section is None else rewards.weights(section["functions"], section["models"])


def best_mode(config: Mapping[str, Any]) -> Mode:
    """Whether the highest or the lowest value of `config.keep.metric` is best."""
    return retention.best_mode(config["keep"]["metric"], reward_weights(config))


def needs_old(config: Mapping[str, Any]) -> bool:
    """Whether updates, or the KL, compare a rollout with the policy as it was before them."""
    advantages = config["advantages"]
    if not is_rl(config) or advantages is None:
        return False
    return bool(rollout_steps(config) > 1 or advantages["kl_weight"])


def rollout_steps(config: Mapping[str, Any]) -> int:
    """Steps that share a rollout; 1 where nothing is sampled."""
    rollout = config["rollout"]
    return 1 if rollout is None else rollout["updates"] * rollout["minibatches"]


def weighs_importance(config: Mapping[str, Any]) -> bool:
    """Whether responses can count by how likely the trainer finds them beside the sampler."""
    return rollout_steps(config) == 1 or config["sampling"]["rescore"] is not False


def needs_reference(config: Mapping[str, Any]) -> bool:
    """Whether anything asks for log-probabilities under the reference."""
    if config["objective"]["name"] == "dpo":
        return dpo.needs_reference(config["objective"])
    return bool(at(config, "advantages.kl_weight") or at(config, "objective.kl_weight"))


def group_size(config: Mapping[str, Any]) -> int:
    """Responses to a prompt that a step learns from."""
    if at(config, "selection.name") in GROUP:
        return GROUP[config["selection"]["name"]]
    if config["rollout"] is not None:
        return config["rollout"]["responses"]
    return 2 if config["objective"].get("loss", "") not in ("", "regression") else 1
