"""Traces of some steps of a run, for TensorBoard or Perfetto."""

import re
from pathlib import Path

import jax

from rlft_jax.progress import say
from rlft_jax.training.loop import Progress
from rlft_jax.training.step import TrainState


def parse_steps(text: str) -> tuple[int, int]:
    """The first and the last step to trace.

    >>> parse_steps("10:12")
    (10, 12)

    Raises:
        ValueError: If the text does not say two steps in order.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= first <= last:
        why = "ends before it begins" if 1 <= last < first else "does not say which steps to trace"
        raise ValueError(
            f"--profile={text} {why}. Write --profile=START:STOP, such as 10:12 for steps 10, 11"
            " and 12."
        )
    return first, last


def check_steps(first: int, last: int, *, steps: int) -> None:
    """Refuses steps beyond the end of a run.

    Raises:
        ValueError: If not all steps that were asked for would be traced.
    """
    if last > steps:
        raise ValueError(
            f"--profile={first}:{last} names steps that this run does not take: it has {steps}."
        )


class Profile:
    """A hook that traces the steps `first` to `last`, what happens between them included.

    Args:
        folder: Where the trace goes, for `tensorboard --logdir`; Perfetto opens the
            `perfetto_trace.json.gz` in it.
        first, last: Steps, counted from 1.
        begun: The step that the run goes on from.
    """

    def __init__(self, folder: Path, first: int, last: int, *, begun: int = 0):
        self._folder, self._first, self._last = folder, first, last
        self._is_on = False
        if first <= begun:
            say(f"Steps {first} to {min(begun, last)} were taken before and are not traced.")
        self._look(begun)

    def __call__(self, progress: Progress) -> None:
        """Starts or ends the trace if it is time to."""
        if self._is_on and progress.step >= self._last:
            jax.block_until_ready(progress.state)
            self.close()
        self._look(progress.step, progress.state)

    def close(self) -> None:
        """Ends the trace, if there is one, wherever the run has got to."""
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()
            say(f"The trace is in {self._folder}.")

    def _look(self, done: int, state: TrainState | None = None) -> None:
        if not self._is_on and self._first <= done + 1 <= self._last:
            jax.block_until_ready(state)  # what came before is not traced
            self._is_on = True
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
