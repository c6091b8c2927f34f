"""Optimizers and learning-rate schedules, made of optax."""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import optax
from jaxtyping import PyTree

# Norms and biases are not decayed. They go by name: stacked over layers they have two axes.
NOT_DECAYED = re.compile(r"(scale|bias)$")


class Optimizer(NamedTuple):
    """A gradient transformation and the learning rate that it uses at each step."""

    transformation: optax.GradientTransformation
    learning_rate: Callable


def adamw(
    steps: int,
    *,
    learning_rate: float = 1e-5,
    schedule: Literal["constant", "linear", "cosine"] = "cosine",
    warmup_steps: int = 0,
    final_share: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """AdamW with decoupled decay (Loshchilov and Hutter, 2017, arXiv:1711.05101).

    Args:
        steps: Length of the run, for the schedule.
        learning_rate: The peak, reached after the warm-up.
        schedule: How it falls from there to the last step.
        warmup_steps: Steps of linear warm-up.
        final_share: Share of the peak that is left at the end.
        b1: Decay of the running mean of gradients.
        b2: Decay of the running mean of their squares.
        epsilon: Added to the root of the latter.
        weight_decay: Share of a weight lost per unit of learning rate; norms and biases are
            spared.
        clip_norm: Bound on the global norm of a gradient; none if None.
    """
    falling = max(steps - warmup_steps, 1)
    fall = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(
            learning_rate, final_share * learning_rate, falling
        ),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, falling, final_share),
    }[schedule]()
    rate = fall
    if warmup_steps:
        # The first step trains: its rate is one part of the warm-up, not 0.
        warmup = lambda step: learning_rate * (step + 1) / warmup_steps
        rate = optax.join_schedules([warmup, fall], [warmup_steps])
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    adam = optax.adamw(rate, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay, mask=_is_decayed)
    return Optimizer(optax.chain(clip, adam), rate)


def _is_decayed(params: PyTree) -> PyTree[bool]:
    """Which parameters lose weight."""
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return jax.tree.map_with_path(lambda path, _: not NOT_DECAYED.search(name(path)), params)


OPTIMIZERS = {"adamw": adamw}
