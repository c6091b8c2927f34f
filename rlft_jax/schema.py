"""What a config may say: the function or record behind each section, presets, and cross-checks.

A section sets keyword-only parameters, and their defaults stand in that one place.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict

from rlft_jax import rewards
from rlft_jax.config import resolve
from rlft_jax.data.demonstrations import demonstrations
from rlft_jax.models import lora
from rlft_jax.objectives import OBJECTIVES, rloo
from rlft_jax.rollout import Rollout
from rlft_jax.settings import settings_of
from rlft_jax.training.optimizer import OPTIMIZERS
from rlft_jax.training.sharding import make_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The top level.

    Attributes:
        seed: Of the order of data, of sampling, dropout and new adapters.
        steps: Optimizer steps; either this or `epochs`.
        epochs: Times that the data is gone through; may be a fraction.
        reference: Checkpoint that the KL is measured to; the one that training starts from if
            None. With adapters, the base alone.
    """

    seed: int = 0
    steps: int | None = None
    epochs: float | None = None
    reference: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The checkpoint to start from, and how to compute with it.

    Attributes:
        path: A Hugging Face folder, a name on the hub, or a run directory.
        dtype: Type of activations; parameters and optimizer stay in float32.
        unroll: Layers per iteration of the scan over layers; 0 unrolls all.
        remat: What the backward pass computes again to save memory.
        head_chunk: Tokens to unembed at once.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = 1
    remat: Literal["none", "dots", "full"] = "none"
    head_chunk: int = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How rollouts are sampled. Nothing is filtered: what is sampled must be what is scored.

    Attributes:
        max_new_tokens: The most tokens of a response.
        temperature: Of sampling, and of the log-probabilities that training sees.
        stop_strings: A response also ends with the token that completes one of these.
        batch_rows: Responses sampled at once, at most.
        chunk: Tokens between two looks at who has finished.
    """

    max_new_tokens: int
    temperature: float = 1.0
    stop_strings: tuple[str, ...] = ()
    batch_rows: int = 256
    chunk: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What one optimizer step sees.

    Attributes:
        prompts: Prompts of a step, over all processes.
        tokens: Tokens of a row; the most that a prompt with its response may have.
        micro_batches: Parts of the step whose gradients are computed one after another.
        packed: Whether short responses share rows.
    """

    prompts: int = 16
    tokens: int = 1024
    micro_batches: int = 1
    packed: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every:
    """What happens how often, in steps; 0 for never.

    Attributes:
        log: Metrics are written.
        evaluate: Held-out loss and task accuracy are measured.
        save: A checkpoint is written; the last step always is.
        samples: A rollout's responses are written.
    """

    log: int = 1
    evaluate: int = 0
    save: int = 100
    samples: int = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints stay.

    Attributes:
        last: How many of the newest.
        every: Those whose step this divides; None for none.
        best: How many of the best by `metric`, of those saved when it was measured.
        metric: A metric of the evaluation; lower is better if it is a loss.
    """

    last: int = 2
    every: int | None = None
    best: int = 0
    metric: str = "eval_loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How held-out data is evaluated while training.

    Attributes:
        limit: Held-out rows or problems to use, at most.
        samples: Responses to each problem; 0 measures the loss only.
        max_new_tokens: The most tokens of a response.
        temperature: Of sampling; 0 is greedy.
        top_p: Sample among the likeliest tokens that together have this probability.
        top_k: Sample among so many of the likeliest tokens; 0 for all.
    """

    limit: int = 200
    samples: int = 0
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """What ends a run early.

    Attributes:
        patience: Evaluations in a row without a better `config.keep.metric`; 0 for no end.
        skipped: Updates in a row that were left out because they were not finite.
    """

    patience: int = 0
    skipped: int = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """Where metrics go beside the run's JSON lines.

    Attributes:
        tensorboard: Whether to write TensorBoard's event files.
        wandb: Settings for Weights & Biases, such as project; None leaves it alone.
    """

    tensorboard: bool = True
    wandb: Mapping[str, Any] | None = None


def adapter(
    *,
    path: str | None = None,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.0,
    rslora: bool = False,
    targets: str | tuple[str, ...] = lora.ALL,
) -> None:
    """Low-rank adapters, trained instead of the model.

    Args:
        path: A PEFT folder to go on from; its settings win over those here.
        rank: Width of the bottleneck.
        alpha: The update is scaled by alpha / rank.
        dropout: Share of an adapter's inputs dropped while training by SFT.
        rslora: Scale by alpha / sqrt(rank) instead.
        targets: Names of projections as in Hugging Face, or "all-linear".
    """


SCHEMA = {
    "": Run,
    "model": Model,
    "lora": adapter,
    "data": demonstrations,
    "rollout": Rollout,
    "sampling": Sampling,
    "reward": rewards.combined,
    "objective": OBJECTIVES,
    "advantages": rloo.advantages,
    "optimizer": OPTIMIZERS,
    "batch": Rows,
    "mesh": make_mesh,
    "every": Every,
    "keep": Keep,
    "evaluation": Evaluation,
    "stop": Stop,
    "log": Log,
}
ALWAYS = (
    *("model", "data", "objective", "optimizer"),
    *("batch", "mesh", "every", "keep", "evaluation", "stop", "log"),
)
PRESETS = {
    "objective": {
        name: {
            f"{section}.{setting}": value
            for section, settings in sections.items()
            for setting, value in settings.items()
        }
        for name, sections in rloo.PRESETS.items()
    }
}
# Settings that do not change what a step computes, so that a run may go on with others.
MAY_DIFFER = ("steps", "every.*", "keep.*", "log.*", "stop.*", "sampling.batch_rows")

BY_DEFAULT_IN_RL = ("rollout", "reward", "advantages")
ONLY_RL = ("rollout", "sampling", "reward", "advantages")


def resolved(config: ConfigDict, overrides: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """A complete config of plain values.

    Raises:
        ValueError: With everything that is wrong, a line each.
    """
    full = resolve(
        config,
        overrides,
        SCHEMA,
        always=ALWAYS,
        presets=PRESETS,
        checks=[problems_between],
    )
    if full["objective"]["name"] == "rloo":
        for section in BY_DEFAULT_IN_RL:
            if full[section] is None:
                full[section] = {
                    name: setting.default for name, setting in settings_of(SCHEMA[section]).items()
                }
    return full


def problems_between(config: dict[str, Any]) -> Iterator[str]:
    """What is wrong between settings that are each right."""
    is_rl = config["objective"]["name"] == "rloo"
    if (config["steps"] is None) == (config["epochs"] is None):
        yield (
            f"config.steps = {config['steps']} and config.epochs = {config['epochs']}:"
            " set one of the two."
        )
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
    if batch["prompts"] % batch["micro_batches"]:
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
    if not is_rl:
        if config["reference"] is not None:
            yield "config.reference has no effect with config.objective.name = 'sft'; remove it."
        return
    for setting in ("loss_on", "too_long"):
        default = _default(demonstrations, setting)
        if data[setting] != default:
            yield f"config.data.{setting} has no effect with RLOO; leave it at {default!r}."
    if objective["ratio"] == "none":
        for setting in ("clip_low", "clip_high", "dual_clip", "log_ratio_limit"):
            if objective[setting] is not None:
                yield (
                    f"config.objective.{setting} = {objective[setting]} has no effect with"
                    " config.objective.ratio = 'none'; set it to None, or choose another ratio."
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


def _default(function: Any, setting: str) -> Any:
    return settings_of(function)[setting].default
