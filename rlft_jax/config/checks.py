"""What is wrong between the settings of a config that are each right, and out of their ranges."""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from rlft_jax.config.settings import settings_of
from rlft_jax.data.demonstrations import demonstrations
from rlft_jax.tasks import TASKS

ONLY_RL = ("rollout", "sampling", "reward", "advantages")

AT_LEAST = {
    **dict.fromkeys(("steps", "batch.prompts", "batch.tokens", "batch.micro_batches"), 1),
    **dict.fromkeys(("rollout.updates", "rollout.minibatches", "lora.rank", "keep.last"), 1),
    **dict.fromkeys(("sampling.max_new_tokens", "sampling.batch_rows", "sampling.chunk"), 1),
    **dict.fromkeys(("evaluation.limit", "evaluation.max_new_tokens", "stop.skipped"), 1),
    **dict.fromkeys(("model.head_chunk", "keep.every"), 1),
    **dict.fromkeys(("seed", "model.unroll", "every.log", "every.evaluate", "every.save"), 0),
    **dict.fromkeys(("every.samples", "keep.best", "evaluation.samples", "stop.patience"), 0),
    **dict.fromkeys(("evaluation.temperature", "evaluation.top_k", "data.holdout"), 0),
    **dict.fromkeys(("optimizer.warmup_steps", "optimizer.weight_decay"), 0),
    **dict.fromkeys(("lora.dropout", "optimizer.final_share"), 0),
}
ABOVE = dict.fromkeys(
    ("epochs", "optimizer.learning_rate", "optimizer.clip_norm", "evaluation.top_p"), 0
)
AT_MOST = dict.fromkeys(("evaluation.top_p", "lora.dropout", "optimizer.final_share"), 1)


def problems_between(config: dict[str, Any]) -> Iterator[str]:
    """What is wrong between settings that are each right."""
    is_rl = config["objective"]["name"] == "rloo"
    if (config["steps"] is None) == (config["epochs"] is None):
        yield (
            f"config.steps = {config['steps']} and config.epochs = {config['epochs']}:"
            " set one of the two."
        )
    yield from _ranges(config)
    yield from _sections(config, is_rl)
    yield from _shapes(config, is_rl)
    yield from _without_effect(config, is_rl)
    if config["stop"]["patience"] and not config["every"]["evaluate"]:
        yield "config.stop.patience needs evaluations; set config.every.evaluate."
    if config["keep"]["best"] and not config["every"]["evaluate"]:
        yield "config.keep.best needs evaluations; set config.every.evaluate."
    yield from _metric(config, is_rl)
    data = config["data"] or {}
    if config["every"]["evaluate"] and not (data["holdout"] or data["heldout_path"]):
        yield (
            "config.every.evaluate needs held-out data; set config.data.holdout or"
            " config.data.heldout_path."
        )


def _ranges(config: dict[str, Any]) -> Iterator[str]:
    for bounds, is_wrong, words in (
        (AT_LEAST, lambda value, least: value < least, "at least"),
        (ABOVE, lambda value, least: value <= least, "above"),
        (AT_MOST, lambda value, most: value > most, "at most"),
    ):
        for path, bound in bounds.items():
            section, _, setting = path.rpartition(".")
            values = config if not section else config[section]
            value = None if values is None else values.get(setting)
            if value is not None and is_wrong(value, bound):
                yield f"config.{path} = {value} must be {words} {bound}."
    task = config["data"]["task"]
    if task is not None and task not in TASKS:
        yield f"config.data.task = {task!r} does not exist: choose one of {', '.join(TASKS)}."


def _sections(config: dict[str, Any], is_rl: bool) -> Iterator[str]:
    for section in ONLY_RL:
        if config[section] is not None and not is_rl:
            yield f"config.{section} has no effect with config.objective.name = 'sft'; remove it."
    if is_rl and config["sampling"] is None:
        yield "config.sampling is missing: RLOO needs config.sampling.max_new_tokens."
    if config["evaluation"]["samples"] and config["data"]["task"] is None:
        yield "config.evaluation.samples needs a task to grade with; set config.data.task."
    functions = (config["reward"] or {}).get("functions") or {"verifier": 1.0}
    if is_rl and config["data"]["task"] is None and "verifier" in functions:
        yield (
            "config.reward.functions names the verifier, which belongs to a task; set"
            " config.data.task, or name a function of your own."
        )


def _metric(config: dict[str, Any], is_rl: bool) -> Iterator[str]:
    metric = config["keep"]["metric"]
    of_loss = () if is_rl else ("eval_loss", "eval_mean_token_accuracy")
    of_answers = ("eval_accuracy", "eval_formatted", "eval_score", "eval_truncated")
    measured = (*of_loss, *(of_answers if is_rl or config["evaluation"]["samples"] else ()))
    if (config["keep"]["best"] or config["stop"]["patience"]) and metric not in measured:
        yield (
            f"config.keep.metric = {metric!r} is not measured by this run's evaluations; choose one"
            f" of {', '.join(measured)}."
        )


def _shapes(config: dict[str, Any], is_rl: bool) -> Iterator[str]:
    batch, rollout = config["batch"], config["rollout"] or {}
    if batch["micro_batches"] > 0 and batch["prompts"] % batch["micro_batches"]:
        yield (
            f"config.batch.prompts = {batch['prompts']} does not divide into"
            f" config.batch.micro_batches = {batch['micro_batches']} equal parts."
        )
    if not is_rl:
        return
    if config["sampling"]["max_new_tokens"] >= batch["tokens"]:
        yield (
            f"config.sampling.max_new_tokens = {config['sampling']['max_new_tokens']} leaves no"
            f" room for a prompt in config.batch.tokens = {batch['tokens']}."
        )
    if rollout.get("responses", 2) < 2:
        yield (
            "config.rollout.responses = 1, but RLOO compares responses to the same prompt;"
            " set it to 2 or more."
        )
    if config["sampling"]["temperature"] <= 0:
        yield "config.sampling.temperature must be above 0: greedy responses are all the same."


def _without_effect(config: dict[str, Any], is_rl: bool) -> Iterator[str]:
    objective, data = config["objective"], config["data"]
    if data["heldout_path"] and data["holdout"] % 1:
        yield (
            f"config.data.holdout = {data['holdout']} is a share, but with config.data.heldout_path"
            " it says how many rows to take from there; give a whole number, or 0 for all."
        )
    optimizer = config["optimizer"]
    if optimizer["schedule"] == "constant" and optimizer["final_share"]:
        yield "config.optimizer.final_share has no effect with a constant schedule; set it to 0."
    if config["log"]["wandb"] is not None and importlib.util.find_spec("wandb") is None:
        yield "config.log.wandb needs wandb, which is not installed: pip install 'rlft_jax[wandb]'."
    if not is_rl:
        if config["reference"] is not None:
            yield "config.reference has no effect with config.objective.name = 'sft'; remove it."
        return
    for setting in ("loss_on", "too_long"):
        default = settings_of(demonstrations)[setting].default
        if data[setting] != default:
            yield f"config.data.{setting} has no effect with RLOO; leave it at {default!r}."
    if objective["ratio"] == "none":
        for setting in ("clip_low", "clip_high", "dual_clip", "log_ratio_limit"):
            if objective[setting] is not None:
                yield (
                    f"config.objective.{setting} = {objective[setting]} has no effect with"
                    " config.objective.ratio = 'none'; set it to None, or choose another ratio."
                )
    advantages = config["advantages"] or {}
    for setting in ("kl_after_baseline", "kl_limit"):
        if advantages.get(setting) and not advantages["kl_weight"]:
            yield (
                f"config.advantages.{setting} has no effect while config.advantages.kl_weight is 0."
            )
    if config["reference"] is not None and not needs_reference(config):
        yield (
            "config.reference has no effect while the KL has no weight; set"
            " config.advantages.kl_weight or config.objective.kl_weight."
        )
    if config["lora"] is not None and config["reference"] is not None:
        yield "config.reference has no effect with config.lora, whose base is the reference."
    if config["lora"] is not None and config["lora"]["dropout"]:
        yield "config.lora.dropout has no effect with RLOO, whose ratios need it off; set it to 0."


def needs_reference(config: Mapping[str, Any]) -> bool:
    """Whether anything asks for log-probabilities under the reference."""
    in_reward = (config["advantages"] or {}).get("kl_weight", 0.0)
    return bool(in_reward or config["objective"].get("kl_weight"))
