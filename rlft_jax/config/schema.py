"""What a config may say: the function or record behind each section, and presets.

A section sets keyword-only parameters, and their defaults stand in that one place.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict

from rlft_jax import rewards
from rlft_jax.config.binding import Check, describe, resolve
from rlft_jax.config.checks import CHECKS, OBJECTIVE_PRESETS
from rlft_jax.config.idle import without_effect
from rlft_jax.config.sections import FromCommandLine, Schema, Written
from rlft_jax.config.settings import closest, settings_of
from rlft_jax.data.demonstrations import Demonstrations
from rlft_jax.data.formatting import Preset, TooLong
from rlft_jax.data.preferences import Preferences
from rlft_jax.data.problems import Problems
from rlft_jax.data.reward_data import RewardData
from rlft_jax.models import lora
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.objectives import OBJECTIVES, rloo
from rlft_jax.rollout import Rollout
from rlft_jax.sampling.cache import CacheDtype
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.selection import SELECTIONS
from rlft_jax.training.optimizer import OPTIMIZERS
from rlft_jax.training.sharding import make_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The top level.

    Attributes:
        seed: Decides the order of data, sampling, dropout and new adapters.
        steps: Optimizer steps; either this or `epochs`.
        epochs: Times that the data is gone through; may be a fraction.
        reference: Checkpoint that a policy is compared with, in the KL or by DPO; the one that
            training starts from if None. With adapters, the base alone.
        cache_reference: Whether the reference scores all data once, before training, and the
            result is kept beside the data for runs to come.
    """

    seed: int = 0
    steps: int | None = None
    epochs: float | None = None
    reference: str | None = None
    cache_reference: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Compute):
    """The checkpoint to start from, and how to compute with it.

    Attributes:
        path: A Hugging Face folder, a name on the hub, or a run directory.
    """

    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModel(Model):
    """The reward model to start from, or the model to make one of.

    Attributes:
        parameters: Those of the checkpoint; or of the checkpoint with a new head, as for a model
            that has none; or all random, of the architecture and with the tokenizer there.
    """

    parameters: Literal["checkpoint", "new_head", "random"] = "checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How a reward model reads a prompt with a response; kept beside the model and checked.

    Attributes:
        preset: "chat": the chat template. "plain": every turn under the name of its role. "pair":
            prompt and response as two segments. What is usual for the tokenizer if None.
        too_long: What happens to texts of more than `config.batch.tokens` tokens: "drop" them, or
            "cut" from the left of the prompt. The latter if None.
    """

    preset: Preset | None = None
    too_long: TooLong | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How rollouts are sampled. Nothing is filtered: what is sampled must be what is scored.

    Attributes:
        max_new_tokens: The most tokens of a response.
        temperature: Of sampling, and of the log-probabilities that training sees.
        stop_strings: A response also ends with the token that completes one of these; so do those
            to held-out problems.
        batch_rows: Responses sampled at once, at most; those that wait follow those that end.
        chunk: Tokens between two looks at who has finished.
        dtype: What to compute in, from a copy of the weights, while these stay what they are; as
            `config.model.dtype` says if None.
        cache_dtype: What keys and values are kept in, for held-out problems too: as computed if
            None. "int8" takes about half of bfloat16's memory; the README tells at what cost.
        rescore: Whether the trainer scores a rollout once more before it learns from it, for the KL
            in rewards or advantages and for the ratios of later updates; the sampler's own
            log-probabilities stand in otherwise. If None, they do on CPUs, where both compute in
            float32 and so agree to rounding, unless several updates share a rollout or the sampler
            is a step behind.
    """

    max_new_tokens: int
    temperature: float = SamplingSettings.temperature
    stop_strings: tuple[str, ...] = SamplingSettings.stop_strings
    batch_rows: int = SamplingSettings.batch_rows
    chunk: int = SamplingSettings.chunk
    dtype: Dtype | None = None
    cache_dtype: CacheDtype | None = SamplingSettings.cache_dtype
    rescore: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What one optimizer step sees.

    Attributes:
        prompts: Prompts of a step, over all processes.
        tokens: Tokens of a row at most, and of a prompt with its response. A few packed rows of
            a run of one process have three quarters or half as many where that saves a quarter.
        micro_batches: Parts of the step whose gradients are computed one after another, for less
            memory; on CPUs parts of a few thousand tokens are faster than larger ones, too.
        packed: Whether short responses share rows.
        share_prompts: Whether responses of a group, or of a pair, that share a row share their
            prompt, too, which a decoder then computes once for all of them. If None, wherever the
            form of attention can: "xla" and "blockwise".
    """

    prompts: int = 16
    tokens: int = 1024
    micro_batches: int = 1
    packed: bool = True
    share_prompts: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every:
    """What happens how often, in steps; 0 for never.

    Attributes:
        log: Metrics are written.
        evaluate: Held-out loss and task accuracy are measured.
        evaluate_first: Whether that is done before the first step too, as step 0.
        save: A checkpoint is written; the last step always is.
        samples: A rollout's responses are written.
    """

    log: int = 1
    evaluate: int = 0
    evaluate_first: bool = False
    save: int = 100
    samples: int = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints stay.

    Attributes:
        last: How many of the newest.
        every: Those whose step this divides; None for none.
        best: How many of the best by `metric`, of those saved when it was measured.
        metric: A metric of the evaluation. The lowest is best of eval_loss, eval_truncated,
            eval_mean_length and rewards of negative weight, the highest of all others.
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
        samples: Responses to each problem; 0 measures the loss only. By default 1 in RL, and 0
            elsewhere.
        max_new_tokens: The most tokens of a response.
        temperature: Of sampling; 0 is greedy.
        top_p: Sample among the likeliest tokens that together have this probability.
        top_k: Sample among so many of the likeliest tokens; 0 for all.
    """

    limit: int = 200
    samples: int | None = None
    max_new_tokens: int = 512
    temperature: float = SamplingSettings.temperature
    top_p: float = SamplingSettings.top_p
    top_k: int = SamplingSettings.top_k


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """What ends a run early.

    Attributes:
        patience: Evaluations in a row without a better `config.keep.metric`; 0 for no end.
        skipped: Updates in a row that were left out because they were not finite. A look is taken
            a step late.
        watch: A reward of `config.reward.functions` that ends a rollout's run when it gets worse
            (falls; or rises, if its weight is negative) while the reward in all rises, as where a
            policy cheats a learned reward. Give it weight 0.
        window: Logged rollouts that `watch` compares with as many before them.
    """

    patience: int = 0
    skipped: int = 10
    watch: str | None = None
    window: int = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """Where metrics go beside the run's JSON lines.

    Attributes:
        tensorboard: Whether to write TensorBoard's event files.
        wandb: Settings for Weights & Biases, such as project; None leaves it alone.
    """

    tensorboard: bool = True
    wandb: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter(lora.Settings):
    """Low-rank adapters, trained instead of the model.

    Attributes:
        path: A PEFT folder to go on from; it brings all other settings.
    """

    path: str | None = None


# What sections configure where that depends on the kind of run: what its objective is, or, where a
# policy writes its own responses, "rollout".
MODEL = {"reward_model": RewardModel, "policy": Model}
DATA = {
    "rollout": Problems,
    "sft": Demonstrations,
    "dpo": Preferences,
    "reward_model": RewardData,
}
SCHEMA = {
    "": Run,
    "model": MODEL,
    "lora": Adapter,
    "data": DATA,
    "formatter": Format,
    "rollout": Rollout,
    "sampling": Sampling,
    "reward": rewards.combined,
    "selection": SELECTIONS,
    "objective": OBJECTIVES,
    "advantages": rloo.advantages,
    "optimizer": OPTIMIZERS,
    "batch": BatchShape,
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
# Sections that only some kinds of runs have.
ONLY = ("lora", "formatter", "rollout", "sampling", "reward", "selection", "advantages")
# What a rollout is made into where the objective cannot learn from all of it.
SELECTED = {"dpo": "best_and_worst", "sft": "best"}
PRESETS = {
    "objective": {
        name: {
            f"{section}.{setting}": value
            for section, settings in sections.items()
            for setting, value in settings.items()
        }
        for presets in OBJECTIVE_PRESETS.values()
        for name, sections in presets.items()
    }
}
# Settings that do not change what a step computes, so that a run may go on with others.
MAY_DIFFER = (
    *("every.*", "log.*", "stop.*", "sampling.batch_rows"),
    *("keep.last", "keep.every", "keep.best"),
)


def resolved(
    config: ConfigDict,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    checks: Sequence[Check] = (),
) -> dict[str, Any]:
    """A complete config of plain values.

    Args:
        config: What the file says.
        overrides: What the command line says.
        checks: What else to ask of it, such as what it needs of this machine.

    Raises:
        ValueError: With everything that is wrong, a line each.
    """
    return resolve(
        config,
        overrides,
        SCHEMA,
        always=ALWAYS,
        narrow=narrowed,
        presets=PRESETS,
        checks=[*CHECKS, lambda full: without_effect(full, default), *checks],
    )


def default(setting: str) -> Any:
    """What a dotted setting is where nobody wrote it; None if it has to be written."""
    section, _, name = setting.rpartition(".")
    entry = SCHEMA[section]
    functions = [entry] if callable(entry) else entry.values()
    known = [s[name] for s in map(settings_of, functions) if name in s]
    return known[0].default if known and not known[0].is_required else None


def narrowed(written: Written, wrong: list[str]) -> Schema:
    """The sections of a run of the kind that was written, and what each of them configures."""
    objective = written["objective"].get("name")
    if objective not in OBJECTIVES:  # refused by its section
        return {**SCHEMA, "model": Model, "data": Demonstrations}
    if objective in SELECTED and isinstance(written.get("rollout"), FromCommandLine):
        settings = ", ".join(f"--config.rollout.{name}" for name in written.pop("rollout"))
        wrong.append(
            "config.rollout makes another kind of run, which learns from the policy's own responses"
            f" and not from data. Write it in the file, or leave {settings} out."
        )
    is_rollout = objective == "rloo" or ("rollout" in written and objective in SELECTED)
    mine = {"lora"} if objective != "reward_model" else {"formatter"}
    if is_rollout:
        mine |= {"rollout", "sampling", "reward", "selection"}
    if objective == "rloo":
        mine |= {"advantages"}
    for section in mine - {"lora", "selection"}:
        written.setdefault(section, {})
    if is_rollout and objective in SELECTED:
        written.setdefault("selection", {}).setdefault("name", SELECTED[objective])
    for section in sorted(({*ONLY} - mine) & written.keys()):
        wrong.append(
            f"config.{section} has no effect with config.objective.name = {str(objective)!r};"
            " remove it."
        )
    kept = {section: entry for section, entry in SCHEMA.items() if section not in {*ONLY} - mine}
    model = MODEL.get(objective, Model)
    return {**kept, "model": model, "data": DATA["rollout" if is_rollout else objective]}


def help_page(section: str | None = None) -> str:
    """Every section and setting, or those of one section, with defaults and meanings.

    Raises:
        ValueError: If there is no such section.
    """
    name = "" if section in (None, "config") else section.removeprefix("config.")
    if name not in SCHEMA:
        near = closest(name, SCHEMA)
        raise ValueError(
            f"config.{name} is no section of a config: there are {', '.join(filter(None, SCHEMA))}."
            + (f" Did you mean `rlft help config {near}`?" if near else "")
        )
    shown = {name: SCHEMA[name]} if name else SCHEMA
    return describe(shown, PRESETS, {"data": "for", "model": "for"})
