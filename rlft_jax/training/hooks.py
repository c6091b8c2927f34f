"""What happens after a step besides the next one: logs, evaluations, checkpoints, the end."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rlft_jax.metrics import Mean, Metrics
from rlft_jax.progress import Advance
from rlft_jax.training.checkpoint import Checkpoints
from rlft_jax.training.loop import Hook, Progress, Source, Stopped
from rlft_jax.training.preemption import EXIT_PREEMPTED, Preemption
from rlft_jax.training.report import Report, numbers
from rlft_jax.training.step import Params

# What the progress bar shows of the metrics, where they exist.
SHOWN = ("loss", "reward", "kl", "grad_norm")


def is_due(step: int, every: int, last: int = 0) -> bool:
    """Whether something that happens every so many steps, and at the last, happens now."""
    return (bool(every) and step % every == 0) or step == last


def log(report: Report | None, advance: Advance, *, every: int, steps: int) -> Hook:
    """Writes metrics, and how fast it goes."""
    since, taken = time.monotonic(), 0

    def hook(progress: Progress) -> None:
        nonlocal since, taken
        taken += 1
        if not is_due(progress.step, every, steps):
            advance(1)
            return
        metrics = progress.metrics | over_processes(progress.source_metrics)
        if report is None:
            return
        values = report.metrics(progress.step, metrics)
        now = time.monotonic()
        per_step = (now - since) / taken
        since, taken = now, 0
        report.timings(
            progress.step,
            {"step_time": per_step, "tokens_per_second": values["num_tokens"] / per_step},
        )
        shown = [f"{name} {values[name]:.3g}" for name in SHOWN if name in values]
        advance(1, note="  ".join(shown))

    return hook


def table(report: Report | None, rows: Callable[[], list[dict[str, Any]]], *, every: int) -> Hook:
    """Writes responses of a rollout for people to read."""

    def hook(progress: Progress) -> None:
        if report is not None and is_due(progress.step, every):
            report.samples(progress.step, rows())

    return hook


class History:
    """Values of one metric over a run's evaluations, which decide what is best and when to stop."""

    def __init__(self, metric: str, past: list[tuple[int, float]]):
        self.metric, self._values = metric, past
        self._sign = -1 if metric.endswith("loss") else 1

    @property
    def mode(self) -> str:
        """Whether the highest or the lowest value is best."""
        return "min" if self._sign < 0 else "max"

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Notes what an evaluation found.

        Raises:
            ValueError: If it did not measure the metric.
        """
        if self.metric not in metrics:
            raise ValueError(
                f"config.keep.metric = {self.metric!r} is not measured; the evaluation gives"
                f" {', '.join(metrics)}."
            )
        self._values.append((step, metrics[self.metric]))

    def at(self, step: int) -> float | None:
        """The value measured at a step, if it was."""
        return dict(self._values).get(step)

    @property
    def without_progress(self) -> int:
        """Evaluations since the best one."""
        values = [
            self._sign * (v if math.isfinite(v) else -self._sign * math.inf)
            for _, v in self._values
        ]
        return len(values) - 1 - int(np.argmax(values)) if values else 0

    def is_over(self, patience: int) -> bool:
        """Whether so many evaluations brought nothing better; never if `patience` is 0."""
        return bool(patience) and self.without_progress >= patience


def evaluate(
    report: Report | None,
    measure: Callable[[Params], Metrics],
    history: History | None,
    *,
    every: int,
    steps: int,
) -> Hook:
    """Measures on held-out data, and writes it down."""

    def hook(progress: Progress) -> None:
        if not every or not is_due(progress.step, every, steps):
            return
        metrics = measure(progress.state.params)
        if history is not None:
            history.add(progress.step, numbers(metrics))
        if report is not None:
            report.metrics(progress.step, metrics)

    return hook


class Saver:
    """Saves the run; also at a moment's notice.

    Args:
        extra: Facts to keep with every checkpoint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        source: Source,
        report: Report | None,
        history: History | None,
        extra: dict[str, Any],
        *,
        every: int,
        steps: int,
    ):
        self._checkpoints, self._source, self._report = checkpoints, source, report
        self._history, self._extra = history, extra
        self._every, self._steps = every, steps
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Saves if it is time to."""
        self._last = progress
        is_measured = self._history is not None and self._history.at(progress.step) is not None
        if is_measured or is_due(progress.step, self._every, self._steps):
            self.save()

    def save(self) -> None:
        """Saves the last step that was taken, if there was one."""
        if self._last is None:
            return
        if self._report is not None:
            self._report.sync()  # a checkpoint's lines are on the disk before it counts
        metric = None if self._history is None else self._history.at(self._last.step)
        self._checkpoints.save(
            self._last.step,
            self._last.state,
            self._source.state(),
            extra=self._extra,
            metric=metric,
        )


def end(
    saver: Saver,
    preemption: Preemption,
    history: History | None,
    *,
    log_every: int,
    steps: int,
    patience: int,
    skipped: int,
) -> Hook:
    """Ends the run when asked to, when nothing improves, or when updates keep failing."""

    def hook(progress: Progress) -> None:
        if preemption.should_stop(progress.step):
            saver.save()
            raise SystemExit(EXIT_PREEMPTED)
        if is_due(progress.step, log_every or skipped, steps):
            in_a_row = int(progress.state.skipped[1])
            if in_a_row >= skipped:
                saver.save()
                raise ValueError(
                    f"{in_a_row} updates in a row up to step {progress.step} were left out because"
                    " a loss or gradient was not finite (config.stop.skipped). Lower the learning"
                    " rate, or look at the data of these steps."
                )
        if history is not None and history.is_over(patience):
            saver.save()
            raise Stopped(
                f"{history.metric} has not improved for {patience} evaluations"
                " (config.stop.patience)"
            )

    return hook


def over_processes(metrics: Metrics) -> Metrics:
    """Adds up what processes measured apart; all call it together."""
    if jax.process_count() == 1 or not metrics:
        return metrics
    names = sorted(metrics)
    local = np.array([[np.asarray(x, np.float32) for x in metrics[name]] for name in names])
    total = multihost_utils.process_allgather(local).sum(0)
    return {name: Mean(*pair) for name, pair in zip(names, total)}
