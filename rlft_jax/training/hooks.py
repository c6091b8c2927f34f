"""What happens after a step besides the next one: logs, evaluations, checkpoints, the end."""

import collections
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rlft_jax.metrics import Metrics
from rlft_jax.progress import Advance, say
from rlft_jax.training import completions
from rlft_jax.training.checkpoint import Checkpoints
from rlft_jax.training.loop import Hook, Progress, Source, Stopped
from rlft_jax.training.preemption import EXIT_PREEMPTED, Preemption
from rlft_jax.training.report import Report, numbers
from rlft_jax.training.retention import Mode
from rlft_jax.training.step import Params

# What the progress bar shows of the metrics, where they exist.
SHOWN = ("loss", "reward", "kl", "grad_norm")


def is_due(step: int, every: int, last: int = 0) -> bool:
    """Whether something that happens every so many steps, and at the last, happens now."""
    return (bool(every) and step % every == 0) or step == last


class TrainingTime:
    """Seconds of training: what evaluations and checkpoints take is left out."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        since, self._since = self._since, time.monotonic()
        return self._since - since

    @contextlib.contextmanager
    def aside(self, state: Any) -> Iterator[None]:
        """Leaves out what happens inside, which begins when the devices have come to `state`."""
        jax.block_until_ready(state)
        start = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - start


def log(
    report: Report | None,
    advance: Advance,
    training_time: TrainingTime,
    *,
    tokens: int,
    every: int,
    steps: int,
) -> Hook:
    """Writes metrics, and how fast it goes; a step late, for no device to wait meanwhile.

    The time of a step ends when it is on its way to the devices, which may still be at the one
    before it: means over steps are right, that of a single step may be its neighbour's.

    Args:
        tokens: Trained on by the steps before this start of the run.
    """
    taken, known = 0, tokens

    def write(step: int, seconds: float, taken: int, values: Mapping[str, float]) -> None:
        nonlocal known
        assert report is not None
        tokens = int(values["num_tokens"])
        rates = {"step_time": seconds / taken, "tokens_per_second": (tokens - known) / seconds}
        report.timings(step, rates)
        known = tokens
        shown = [f"{name} {values[name]:.3g}" for name in SHOWN if name in values]
        advance(1, note="  ".join(shown))

    def hook(progress: Progress) -> None:
        nonlocal taken
        if report is not None:
            report.flush()
        taken += 1
        if not is_due(progress.step, every, steps):
            advance(1)
            return
        seconds = training_time.lap()
        if report is not None:
            found = {**progress.metrics, **progress.source_metrics}
            then = functools.partial(write, progress.step, seconds, taken)
            report.metrics_later(progress.step, found, then)
        taken = 0

    return hook


def table(report: Report | None, rows: Callable[[], list[dict[str, Any]]], *, every: int) -> Hook:
    """Writes responses of a rollout for people to read, and shows some."""

    def hook(progress: Progress) -> None:
        if report is not None and is_due(progress.step, every):
            report.samples(progress.step, rows())
            completions.show(progress.step, rows())

    return hook


class History:
    """Values of one metric over a run's evaluations, which decide what is best and when to stop.

    Args:
        metric: Its name.
        past: Steps and what was measured there.
        mode: Whether the highest or the lowest value is best.
    """

    def __init__(self, metric: str, past: list[tuple[int, float]], mode: Mode):
        self.metric, self._values, self._mode = metric, past, mode

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
        sign = 1 if self._mode == "max" else -1
        values = [sign * v if math.isfinite(v) else -math.inf for _, v in self._values]
        return len(values) - 1 - int(np.argmax(values)) if values else 0

    def is_over(self, patience: int) -> bool:
        """Whether so many evaluations brought nothing better; never if `patience` is 0."""
        return bool(patience) and self.without_progress >= patience


class Watch:
    """A reward that is not trained on, beside the one that is: does the policy cheat?

    Args:
        reward: Name of the reward to watch.
        window: Logged rollouts to take means over.
        mode: Whether high or low values of the watched reward are good.
        steps: Steps that share a rollout.
    """

    def __init__(self, reward: str, window: int, mode: Mode = "max", *, steps: int = 1):
        self.reward, self._window, self._steps = reward, window, steps
        self._sign = 1 if mode == "max" else -1
        self._values: dict[int, tuple[float, float]] = {}  # by rollout

    def add(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Notes what the rollout of a logged step earned; once, however many steps share it."""
        values = (metrics["reward"], metrics[f"rewards/{self.reward}/mean"])
        trained, watched = (math.nan if value is None else value for value in values)
        self._values[(step - 1) // self._steps] = (trained, self._sign * watched)

    @property
    def is_cheated(self) -> bool:
        """Whether one rose and the other got worse, each by more than three standard errors.

        The last window is compared with the one before it. Fewer errors would not do: a look is
        taken after every rollout.
        """
        values = np.array([*self._values.values()][-2 * self._window :])
        if len(values) < 2 * self._window:
            return False
        before, after = values[: self._window], values[self._window :]
        error = np.sqrt((before.var(0, ddof=1) + after.var(0, ddof=1)) / self._window)
        trained, held_out = after.mean(0) - before.mean(0)
        return bool(trained > 3 * error[0] and held_out < -3 * error[1])


def evaluate(
    report: Report | None,
    measure: Callable[[Params], Metrics],
    history: History | None,
    training_time: TrainingTime,
    *,
    every: int,
    steps: int,
) -> Hook:
    """Measures on held-out data, writes it down and says it; at step 0 too, if called there."""

    def hook(progress: Progress) -> None:
        if not every or not is_due(progress.step, every, steps):
            return
        with training_time.aside(progress.state):
            values = numbers(measure(progress.state.params))
        if history is not None:
            history.add(progress.step, values)
        if report is not None:
            report.metrics(progress.step, values)
            found = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            say(f"Step {progress.step}: {found}")

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
        training_time: TrainingTime,
        extra: dict[str, Any],
        *,
        every: int,
        steps: int,
    ):
        self._checkpoints, self._source, self._report = checkpoints, source, report
        self._history, self._training_time, self._extra = history, training_time, extra
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
        metric = None if self._history is None else self._history.at(self._last.step)
        with self._training_time.aside(self._last.state):
            if self._report is not None:
                self._report.sync()  # a checkpoint's lines are on the disk before it counts
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
    watch: Watch | None,
    *,
    log_every: int,
    steps: int,
    patience: int,
    skipped: int,
) -> Hook:
    """Ends the run when asked to, when nothing improves, or when updates keep failing."""
    counts: collections.deque[tuple[int, Any]] = collections.deque()

    def hook(progress: Progress) -> None:
        if preemption.should_stop(progress.step):
            saver.save()
            raise SystemExit(EXIT_PREEMPTED)
        # A step late, for no device to wait meanwhile; at the last step, of that one too.
        counts.append((progress.step, progress.metrics["skipped_in_a_row"]))
        while len(counts) > (progress.step < steps):
            step, count = counts.popleft()
            in_a_row = int(count.value)
            if in_a_row >= skipped:
                saver.save()
                raise ValueError(
                    f"{in_a_row} updates in a row up to step {step} were left out because"
                    f" a loss or gradient was not finite (config.stop.skipped = {skipped}). Lower"
                    " the learning rate, or look at the data of these steps."
                )
        if watch is not None and is_due(progress.step, log_every, steps):
            watch.add(progress.step, numbers(progress.source_metrics))
            if watch.is_cheated:
                saver.save()
                raise Stopped(
                    f"the reward rises while {watch.reward} gets worse (config.stop.watch)"
                )
        if history is not None and history.is_over(patience):
            saver.save()
            raise Stopped(
                f"{history.metric} has not improved for {patience} evaluations"
                " (config.stop.patience)"
            )

    return hook
