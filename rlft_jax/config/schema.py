"""What a config may say: the function or record behind each section, and presets.

A section sets keyword-only parameters, and their defaults stand in that one place.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict

from rlft_jax import rewards
from rlft_jax.config.binding import resolve
from rlft_jax.config.checks import problems_between
from rlft_jax.config.settings import settings_of
from rlft_jax.data.demonstrations import demonstrations
from rlft_jax.models import lora
from rlft_jax.objectives import OBJECTIVES, rloo
from rlft_jax.rollout import Rollout
from rlft_jax.training.optimizer import OPTIMIZERS
from rlft_jax.training.sharding import make_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The top level.

    Attributes:
        seed: Decides the order of data, sampling, dropout and new adapters.
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
MAY_DIFFER = ("every.*", "keep.*", "log.*", "stop.*", "sampling.batch_rows")


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
    for section in ("rollout", "reward", "advantages"):
        if full["objective"]["name"] == "rloo" and full[section] is None:
            settings = settings_of(SCHEMA[section]).values()
            full[section] = {setting.name: setting.default for setting in settings}
    return full
