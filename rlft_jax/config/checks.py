"""What is wrong between the settings of a config that are each right, and out of their ranges."""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from rlft_jax.config.derived import answers, at, is_rl, reward_weights, weighs_importance
from rlft_jax.config.settings import closest, settings_of
from rlft_jax.data import reward_data
from rlft_jax.data.mixtures import Datasets
from rlft_jax.models import lora
from rlft_jax.objectives import dpo, reward_model, rloo
from rlft_jax.selection import GROUP, SELECTIONS
from rlft_jax.tasks import TASKS

OBJECTIVE_PRESETS = {"rloo": rloo.PRESETS, "dpo": dpo.PRESETS}

AT_LEAST = {
    **dict.fromkeys(("steps", "batch.prompts", "batch.tokens", "batch.micro_batches"), 1),
    **dict.fromkeys(("rollout.updates", "rollout.minibatches", "lora.rank", "keep.last"), 1),
    **dict.fromkeys(("sampling.max_new_tokens", "sampling.batch_rows", "sampling.chunk"), 1),
    **dict.fromkeys(("evaluation.limit", "evaluation.max_new_tokens", "stop.skipped"), 1),
    **dict.fromkeys(("model.head_chunk", "keep.every", "reward.batch_rows"), 1),
    **dict.fromkeys(("seed", "model.unroll", "every.log", "every.evaluate", "every.save"), 0),
    **dict.fromkeys(("every.samples", "keep.best", "evaluation.samples", "stop.patience"), 0),
    **dict.fromkeys(("evaluation.temperature", "evaluation.top_k", "data.holdout"), 0),
    **dict.fromkeys(("optimizer.warmup_steps", "optimizer.weight_decay"), 0),
    **dict.fromkeys(("lora.dropout", "optimizer.final_share", "optimizer.b1", "optimizer.b2"), 0),
    **dict.fromkeys(("rollout.responses", "stop.window"), 2),
    **dict.fromkeys(("mesh.data", "mesh.tensor", "data.limit"), 1),
}
ABOVE = dict.fromkeys(
    (
        "selection.share",
        "epochs",
        "optimizer.learning_rate",
        "optimizer.clip_norm",
        "optimizer.epsilon",
        "evaluation.top_p",
        "sampling.temperature",
        "lora.alpha",
    ),
    0,
)
AT_MOST = {
    **dict.fromkeys(("selection.share", "evaluation.top_p", "optimizer.final_share"), 1),
    "seed": 2**32 - 1,  # random keys take 32 bits
}
BELOW = dict.fromkeys(("lora.dropout", "optimizer.b1", "optimizer.b2"), 1)


def _length(config: dict[str, Any]) -> Iterator[str]:
    steps, epochs = config["steps"], config["epochs"]
    if (steps is None) == (epochs is None):
        yield f"config.steps = {steps} and config.epochs = {epochs}: set one of the two."
    elif steps is not None:
        yield from warmup(config, steps)


def warmup(config: dict[str, Any], steps: int) -> Iterator[str]:
    """What is wrong with the warm-up in a run of so many steps."""
    warmup_steps = config["optimizer"]["warmup_steps"]
    if 0 < steps <= warmup_steps:
        yield (
            f"config.optimizer.warmup_steps = {warmup_steps} does not end before the run, which has"
            f" {steps} steps; lower it, or make the run longer."
        )


def _ranges(config: dict[str, Any]) -> Iterator[str]:
    for bounds, is_wrong, words in (
        (AT_LEAST, lambda value, least: value < least, "at least"),
        (ABOVE, lambda value, least: value <= least, "above"),
        (AT_MOST, lambda value, most: value > most, "at most"),
        (BELOW, lambda value, end: value >= end, "below"),
    ):
        for path, bound in bounds.items():
            value = at(config, path)
            if value is not None and is_wrong(value, bound):
                yield f"config.{path} = {value} must be {words} {bound}."


def _task(config: dict[str, Any]) -> Iterator[str]:
    task = at(config, "data.task")
    if task is None:
        return
    named: dict[str, Mapping[str, Any]] = {"data.task": TASKS}
    if task in TASKS:
        named = {"data.template": TASKS[task].TEMPLATES, "reward.scorer": TASKS[task].SCORERS}
    for setting, choices in named.items():
        name = at(config, setting)
        if name is not None and name not in choices:
            near = closest(name, choices)
            yield (
                f"config.{setting} = {name!r} does not exist: choose one of {', '.join(choices)}."
                + (f" Did you mean {near}?" if near else "")
            )


def _needs(config: dict[str, Any]) -> Iterator[str]:
    data, evaluates = config["data"], config["every"]["evaluate"]
    if evaluates and not (data["holdout"] or data["heldout_path"]):
        yield (
            "config.every.evaluate needs held-out data; set config.data.holdout or"
            " config.data.heldout_path."
        )
    for setting in ("stop.patience", "keep.best"):
        if at(config, setting) and not evaluates:
            yield f"config.{setting} needs evaluations; set config.every.evaluate."
    if config["evaluation"]["samples"] and at(config, "data.task") is None and not is_rl(config):
        yield "config.evaluation.samples needs a task to grade with; set config.data.task."
    if is_rl(config) and evaluates and config["evaluation"]["samples"] == 0:
        yield "config.evaluation.samples = 0 measures nothing of a policy in RL; set 1 or more."
    if is_rl(config) and at(config, "data.task") is None and "verifier" in reward_weights(config):
        yield (
            "config.reward.functions names the verifier, which belongs to a task; set"
            " config.data.task, or name a function of your own."
        )
    if is_rl(config):
        yield from _reward_names(config["reward"]["models"] or {}, reward_weights(config))
    watch = config["stop"]["watch"]
    if is_rl(config) and watch is not None and watch not in reward_weights(config):
        yield (
            f"config.stop.watch = {watch!r} is none of config.reward.functions:"
            f" {', '.join(reward_weights(config))}. Add it there, with a weight of 0."
        )
    if is_rl(config) and watch is not None and not config["every"]["log"]:
        yield "config.stop.watch needs logged rollouts; set config.every.log."
    if config["log"]["wandb"] is not None and importlib.util.find_spec("wandb") is None:
        yield "config.log.wandb needs wandb, which is not installed: pip install 'rlft_jax[wandb]'."


def _reward_names(models: Mapping[str, str], weights: Mapping[str, float]) -> Iterator[str]:
    if "verifier" in models:
        yield "config.reward.models.verifier has the name of the task's rule; choose another one."
    for name in models:
        if name not in weights:
            yield (
                f"config.reward.models.{name} has no weight; set it with"
                f" config.reward.functions.{name}, to 0 if it is only to be logged."
            )
    for name in weights:
        if name not in models and name != "verifier" and not {".", ":"} & {*name}:
            yield (
                f"config.reward.functions names {name!r}, which is no function's place. If it is a"
                f" reward model, say where with config.reward.models.{name}."
            )


# What evaluations measure on data that others wrote, by objective.
OF_LOSS = {
    "sft": ("eval_loss", "eval_mean_token_accuracy"),
    "dpo": ("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"),
    "reward_model": ("eval_loss", "eval_accuracy"),
}


def _metric(config: dict[str, Any]) -> Iterator[str]:
    metric = config["keep"]["metric"]
    of_loss = () if is_rl(config) else OF_LOSS[config["objective"]["name"]]
    if at(config, "objective.loss") == "regression":
        of_loss = ("eval_loss",)
    of_answers = ("eval_truncated", "eval_mean_length")
    if at(config, "data.task") is not None:
        of_answers = ("eval_accuracy", "eval_formatted", "eval_score", *of_answers)
    if is_rl(config):
        of_answers = (
            "eval_reward",
            *(f"eval_rewards/{r}" for r in reward_weights(config)),
            *of_answers,
        )
    measured = (*of_loss, *(of_answers if answers(config) else ()))
    if (config["keep"]["best"] or config["stop"]["patience"]) and metric not in measured:
        yield (
            f"config.keep.metric = {metric!r} is not measured by this run's evaluations; choose one"
            f" of {', '.join(measured)}."
        )


# Responses to a prompt that an objective learns from, where it is not all of them.
LEARNED = {"dpo": 2, "sft": 1}


def _selection(config: dict[str, Any]) -> Iterator[str]:
    name, objective = at(config, "selection.name"), config["objective"]["name"]
    wanted = LEARNED.get(objective)
    if name is not None and GROUP.get(name) != wanted:
        fitting = [one for one in SELECTIONS if GROUP.get(one) == wanted]
        yield (
            f"config.selection.name = {name!r} does not leave what {objective} learns from; choose"
            f" {' or '.join(fitting)}."
        )


def _shapes(config: dict[str, Any]) -> Iterator[str]:
    batch, sampling = config["batch"], config["sampling"]
    if batch["micro_batches"] > 0 and batch["prompts"] % batch["micro_batches"]:
        yield (
            f"config.batch.prompts = {batch['prompts']} does not divide into"
            f" config.batch.micro_batches = {batch['micro_batches']} equal parts."
        )
    if not is_rl(config):
        return
    if sampling["max_new_tokens"] >= batch["tokens"]:
        yield (
            f"config.sampling.max_new_tokens = {sampling['max_new_tokens']} leaves no room for a"
            f" prompt in config.batch.tokens = {batch['tokens']}."
        )
    if "" in sampling["stop_strings"]:
        yield "config.sampling.stop_strings holds an empty text, which ends nothing; remove it."


def _answers(config: dict[str, Any]) -> Iterator[str]:
    samples, temperature = answers(config), config["evaluation"]["temperature"]
    if config["every"]["evaluate"] and samples > 1 and temperature == 0:
        yield (
            f"config.evaluation.samples = {samples} at config.evaluation.temperature = 0 would all"
            " be the same; set 1, or raise the temperature."
        )


def _adapter(config: dict[str, Any]) -> Iterator[str]:
    section = config["lora"]
    if section is not None and section["path"] is None:
        yield from lora.problems(section["targets"])


def _data(config: dict[str, Any]) -> Iterator[str]:
    data = config["data"]
    section = {name: value for name, value in data.items() if name in settings_of(Datasets)}
    try:
        Datasets(**section).sources()
    except ValueError as error:
        yield str(error)
    if data["heldout_path"] and data["holdout"] % 1:
        yield (
            f"config.data.holdout = {data['holdout']} is a share, but with config.data.heldout_path"
            " it says how many rows to take from there; give a whole number, or 0 for all."
        )


def _objective(config: dict[str, Any]) -> Iterator[str]:
    objective = config["objective"]
    preset, presets = objective["preset"], OBJECTIVE_PRESETS.get(objective["name"], {})
    if preset is not None and preset not in presets:
        yield (
            f"config.objective.preset = {preset!r} belongs to another objective than"
            f" {objective['name']}, which has {', '.join(presets) or 'none'}."
        )
    if objective["name"] == "dpo":
        yield from dpo.problems(objective)
    if objective["name"] == "reward_model":
        yield from reward_model.unused(objective)
        yield from reward_data.unused(objective["loss"], config["data"])


def _overlap(config: dict[str, Any]) -> Iterator[str]:
    objective = config["objective"]
    if not at(config, "rollout.overlap") or objective["name"] != "rloo":
        return
    behind = "config.rollout.overlap = True learns from responses of the policy a step before;"
    if weighs_importance(config) and objective["importance_cap"] is None:
        yield (
            f"{behind} set config.objective.importance_cap, such as 2.0, to weigh them by how"
            " likely they have become."
        )
    if not weighs_importance(config) and objective["ratio"] == "none":
        yield (
            f"{behind} leave config.sampling.rescore at None, and set"
            " config.objective.importance_cap, such as 2.0, so that they are weighed."
        )


# Each tells what is wrong between settings that are each right. They are asked one by one, so that
# a setting that could not be read silences no more than those that need it.
CHECKS = (
    *(_length, _ranges, _task, _needs, _data, _objective, _selection, _shapes),
    *(_answers, _adapter, _metric, _overlap),
)
