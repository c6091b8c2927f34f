"""The training loop: one for all algorithms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rlft_jax.metrics import StepMetrics
from rlft_jax.training.feeding import Padded
from rlft_jax.training.step import AnyBatch, Params, TrainState

Step = Callable[[TrainState, AnyBatch], tuple[TrainState, StepMetrics]]


class Draw(NamedTuple):
    """What a source gives: this process' part of a step, and facts about those of all."""

    responses: Padded
    metrics: Mapping[str, np.number]


@runtime_checkable
class Source(Protocol):
    """Where batches come from: a dataset, or a policy at work."""

    def next(self, params: Params, step: int) -> Draw:
        """The responses for a step; a dataset ignores both arguments."""
        ...

    def state(self) -> dict[str, Any]:
        """Numbers, strings and arrays that `restore` goes on from."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on exactly where `state` was taken."""
        ...


class Stopped(Exception):
    """Raised by a hook to end a run before its last step, saying why."""


class Progress(NamedTuple):
    """What hooks see after a step."""

    step: int
    state: TrainState
    metrics: StepMetrics
    source_metrics: Mapping[str, np.number]


Hook = Callable[[Progress], None]


def run(
    state: TrainState,
    source: Source,
    feed: Callable[[Padded], AnyBatch],
    step: Step,
    *,
    steps: int,
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Trains until step `steps` and returns the last state.

    Hooks run after every step; one that reads an array waits for the devices, so most look only
    every so often. A hook stops the run by raising.
    """
    for number in range(int(state.step) + 1, steps + 1):
        draw = source.next(state.params, number)
        state, metrics = step(state, feed(draw.responses))
        for hook in hooks:
            hook(Progress(number, state, metrics, draw.metrics))
    return state
