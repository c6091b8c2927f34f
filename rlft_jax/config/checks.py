"""What is wrong between the settings of a config that are each right, and out of their ranges."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rlft_jax import rewards
from rlft_jax.data import reward_data, row_forms
from rlft_jax.objectives import dpo, reward_model, rloo
from rlft_jax.selection import GROUP, SELECTIONS
from rlft_jax.tasks import TASKS

OBJECTIVE_PRESETS = {"rloo": rloo.PRESETS, "dpo": dpo.PRESETS}

# Gives the value that a dotted setting has where nobody wrote it.
Default = Callable[[str], Any]

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
    **dict.fromkeys(("lora.dropout", "optimizer.final_share"), 0),
    **dict.fromkeys(("rollout.responses", "stop.window"), 2),
    **dict.fromkeys(("mesh.data", "mesh.tensor", "data.limit"), 1),
}
ABOVE = dict.fromkeys(
    (
        "selection.share",
        "epochs",
        "optimizer.learning_rate",
        "optimizer.clip_norm",
        "evaluation.top_p",
        "sampling.temperature",
    ),
    0,
)
AT_MOST = dict.fromkeys(
    ("selection.share", "evaluation.top_p", "lora.dropout", "optimizer.final_share"), 1
)


def problems_between(config: dict[str, Any], default: Default) -> Iterator[str]:
    """What is wrong between settings that are each right."""
    if (config["steps"] is None) == (config["epochs"] is None):
        yield (
            f"config.steps = {config['steps']} and config.epochs = {config['epochs']}:"
            " set one of the two."
        )
    yield from _ranges(config)
    yield from _needs(config)
    yield from _selection(config)
    yield from _shapes(config)
    yield from _without_effect(config, default)
    yield from _metric(config)


def _ranges(config: dict[str, Any]) -> Iterator[str]:
    for bounds, is_wrong, words in (
        (AT_LEAST, lambda value, least: value < least, "at least"),
        (ABOVE, lambda value, least: value <= least, "above"),
        (AT_MOST, lambda value, most: value > most, "at most"),
    ):
        for path, bound in bounds.items():
            value = at(config, path)
            if value is not None and is_wrong(value, bound):
                yield f"config.{path} = {value} must be {words} {bound}."
    task = at(config, "data.task")
    if task is not None and task not in TASKS:
        yield f"config.data.task = {task!r} does not exist: choose one of {', '.join(TASKS)}."


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
    if is_rl(config) and at(config, "data.task") is None and "verifier" in _rewards(config):
        yield (
            "config.reward.functions names the verifier, which belongs to a task; set"
            " config.data.task, or name a function of your own."
        )
    if is_rl(config):
        yield from _reward_names(config["reward"]["models"] or {}, _rewards(config))
    watch = config["stop"]["watch"]
    if is_rl(config) and watch is not None and watch not in _rewards(config):
        yield (
            f"config.stop.watch = {watch!r} is none of config.reward.functions:"
            f" {', '.join(_rewards(config))}. Add it there, with a weight of 0."
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
        of_answers = ("eval_reward", *(f"eval_rewards/{r}" for r in _rewards(config)), *of_answers)
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
    batch = config["batch"]
    if batch["micro_batches"] > 0 and batch["prompts"] % batch["micro_batches"]:
        yield (
            f"config.batch.prompts = {batch['prompts']} does not divide into"
            f" config.batch.micro_batches = {batch['micro_batches']} equal parts."
        )
    if not is_rl(config):
        return
    if config["sampling"]["max_new_tokens"] >= batch["tokens"]:
        yield (
            f"config.sampling.max_new_tokens = {config['sampling']['max_new_tokens']} leaves no"
            f" room for a prompt in config.batch.tokens = {batch['tokens']}."
        )


class Idle(NamedTuple):
    """Settings that do nothing in some runs, and when."""

    settings: tuple[str, ...]
    when: Callable[[dict[str, Any]], Any]
    why: str


ADAPTER = ("lora.rank", "lora.alpha", "lora.dropout", "lora.rslora", "lora.targets")
CLIPS = ("clip_low", "clip_high", "dual_clip", "log_ratio_limit")
DRAWS = ("evaluation.top_p", "evaluation.top_k")
IDLE = [
    Idle(
        ("data.heldout_split",),
        lambda c: not c["data"]["heldout_path"],
        "without config.data.heldout_path",
    ),
    Idle(
        ("data.template",),
        lambda c: (
            at(c, "data.task") is None
            and not c["data"]["mixture"]
            and at(c, "data.template") != row_forms.CHAT
        ),
        "without config.data.task, where only 'chat' has",
    ),
    Idle(
        ("data.turns",),
        lambda c: at(c, "data.task") is not None,
        "with config.data.task, which makes prompts itself",
    ),
    Idle(
        ("evaluation.max_new_tokens", "evaluation.temperature", *DRAWS),
        lambda c: c["every"]["evaluate"] and not answers(c),
        "while config.evaluation.samples is 0",
    ),
    Idle(
        DRAWS,
        lambda c: not c["evaluation"]["temperature"],
        "while config.evaluation.temperature is 0, which takes the likeliest token",
    ),
    Idle(
        ("every.evaluate_first",),
        lambda c: not c["every"]["evaluate"],
        "while config.every.evaluate is 0",
    ),
    Idle(("every.samples", "stop.watch"), lambda c: not is_rl(c), "where nothing is sampled"),
    Idle(("stop.window",), lambda c: c["stop"]["watch"] is None, "without config.stop.watch"),
    Idle(("reference",), lambda c: not needs_reference(c), "where nothing is compared with it"),
    Idle(("reference",), lambda c: c["lora"], "with config.lora, whose base is the reference"),
    Idle(
        ("cache_reference",),
        lambda c: is_rl(c) or not needs_reference(c),
        "where the reference scores no data that is there before",
    ),
    Idle(
        ("objective.kl_estimator",),
        lambda c: not needs_reference(c),
        "while the KL has no weight (config.objective.kl_weight, config.advantages.kl_weight)",
    ),
    Idle(
        tuple(f"objective.{clip}" for clip in CLIPS),
        lambda c: c["objective"].get("ratio") == "none",
        "with config.objective.ratio = 'none'",
    ),
    Idle(
        ("advantages.kl_after_baseline", "advantages.kl_limit"),
        lambda c: c["advantages"] and not c["advantages"]["kl_weight"],
        "while config.advantages.kl_weight is 0",
    ),
    Idle(
        ("advantages.kl_after_baseline",),
        lambda c: c["objective"].get("ratio") == "sequence",
        "on tokens with config.objective.ratio = 'sequence', which weighs whole responses",
    ),
    Idle(ADAPTER, lambda c: c["lora"] and c["lora"]["path"], "beside config.lora.path"),
    Idle(
        ("lora.dropout",),
        lambda c: c["objective"]["name"] != "sft" or is_rl(c),
        "where log-probabilities are compared, which needs it off",
    ),
    Idle(
        ("optimizer.final_share",),
        lambda c: c["optimizer"]["schedule"] == "constant",
        "with a constant schedule",
    ),
    Idle(
        ("model.head_chunk",),
        lambda c: c["objective"]["name"] == "reward_model",
        "on a reward model, whose head gives one number",
    ),
    Idle(
        ("reward.dtype", "reward.batch_rows"),
        lambda c: is_rl(c) and not c["reward"]["models"],
        "without config.reward.models",
    ),
    Idle(
        ("reward.scorer",),
        lambda c: is_rl(c) and "verifier" not in _rewards(c),
        "where config.reward.functions does not name the verifier",
    ),
]


def _without_effect(config: dict[str, Any], default: Default) -> Iterator[str]:
    data = config["data"]
    if data["heldout_path"] and data["holdout"] % 1:
        yield (
            f"config.data.holdout = {data['holdout']} is a share, but with config.data.heldout_path"
            " it says how many rows to take from there; give a whole number, or 0 for all."
        )
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
        yield from reward_data.unused(objective["loss"], data)
    for settings, is_idle, why in IDLE:
        for setting in settings:
            value, usual = at(config, setting), default(setting)
            if value is not None and value != usual and is_idle(config):
                yield (f"config.{setting} = {value!r} has no effect {why}; leave it at {usual!r}.")


def at(config: Mapping[str, Any], setting: str) -> Any:
    """The value of a dotted setting; None where there is no such section, or setting in it."""
    section, _, name = setting.rpartition(".")
    return ((config[section] or {}) if section else config).get(name)


def is_rl(config: Mapping[str, Any]) -> bool:
    """Whether a run's responses are the policy's own."""
    return config["rollout"] is not None


def answers(config: Mapping[str, Any]) -> int:
    """Responses to each held-out problem; 0 where none is measured."""
    samples = config["evaluation"]["samples"]
    return int(is_rl(config)) if samples is None else samples


def _rewards(config: Mapping[str, Any]) -> Mapping[str, float]:
    return rewards.weights(config["reward"]["functions"], config["reward"]["models"])


def needs_reference(config: Mapping[str, Any]) -> bool:
    """Whether anything asks for log-probabilities under the reference."""
    if config["objective"]["name"] == "dpo":
        return dpo.needs_reference(config["objective"])
    return bool(at(config, "advantages.kl_weight") or at(config, "objective.kl_weight"))
