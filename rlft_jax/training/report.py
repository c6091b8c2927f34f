"""Where the numbers of a run go: JSON lines, TensorBoard and, if asked, Weights & Biases."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlft_jax.metrics import Count, Metric
from rlft_jax.training import completions
from rlft_jax.training.json_lines import JsonLines
from rlft_jax.training.run_directory import RunDirectory

Values = Mapping[str, Metric | Count | jax.Array | np.number | float | int]


class Report:
    """Writes metrics, timings and samples of a run.

    With several processes to a run, process 0 has one. Log all there is about a step before
    saving it, and call `sync` in between: what a checkpoint's step has logged is then there when
    the run goes on from it, and nothing is written twice.

    Args:
        after: The step that the run goes on from; what was logged about later ones is cut off.
        tensorboard: Whether to write TensorBoard's event files too.
        wandb: Arguments of `wandb.init`, such as `project`; None leaves wandb alone.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        after: int = 0,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
    ) -> None:
        self._wandb = None if wandb is None else start_wandb(run, wandb)
        self._tensorboard = start_tensorboard(run, after) if tensorboard else None
        self._metrics = JsonLines(run.metrics, after=after)
        self._timings = JsonLines(run.timings, after=after)
        self._samples = JsonLines(run.samples, after=after)
        self._waiting: Callable[[], None] | None = None

    def metrics_later(
        self, step: int, metrics: Values, then: Callable[[dict[str, float]], None]
    ) -> None:
        """Logs what a step computed at the next `flush`, or before other metrics.

        The devices that are still at it have a next step to go on with by then.

        Args:
            then: Called with the plain numbers when they are known.
        """
        self.flush()
        for array in jax.tree.leaves(dict(metrics)):
            if isinstance(array, jax.Array):
                array.copy_to_host_async()
        self._waiting = lambda: then(self.metrics(step, metrics))

    def flush(self) -> None:
        """Logs what waits, when its devices have come to it."""
        if self._waiting is not None:
            write, self._waiting = self._waiting, None
            write()

    def metrics(self, step: int, metrics: Values) -> dict[str, float]:
        """Logs what a step computed, and returns it as plain numbers.

        No wall-clock value belongs here: two runs of one config write the same bytes.
        """
        self.flush()
        values = numbers(metrics)
        self._metrics.append(step, as_json(values))
        self._show(step, values)
        return values

    def timings(self, step: int, timings: Values) -> None:
        """Logs rates and times."""
        values = numbers(timings)
        self._timings.append(step, as_json(values))
        self._show(step, values)

    def samples(self, step: int, rows: Sequence[completions.Row]) -> None:
        """Logs sample completions, one row each: prompt, completion, reward and so on."""
        for row in rows:
            self._samples.append(step, row)
        if self._tensorboard:
            self._tensorboard.add_text("completions", completions.markdown(rows), step)
        if self._wandb:
            import wandb  # pyright: ignore[reportMissingImports]

            table = wandb.Table(*completions.cells(rows))
            self._wandb.log({"step": step, "completions": table})

    def sync(self) -> None:
        """Returns once all that was logged is on the disk."""
        self.flush()
        for log in (self._metrics, self._timings, self._samples):
            log.sync()
        if self._tensorboard:
            self._tensorboard.flush()

    def close(self) -> None:
        """Ends the report, with everything on the disk."""
        try:
            self.flush()
        finally:  # what waits may never come, where a step failed
            for log in (self._metrics, self._timings, self._samples):
                log.close()
            if self._tensorboard:
                self._tensorboard.close()
            if self._wandb:
                self._wandb.finish()

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log({"step": step, **values})


def numbers(metrics: Values) -> dict[str, float]:
    """Returns plain numbers, a float32 as the shortest decimal that means it.

    >>> numbers({"loss": np.float32(0.1)})
    {'loss': 0.1}
    """
    host = jax.device_get(dict(metrics))  # one transfer for all of them
    return {name: _number(host[name]) for name in sorted(host)}


def as_json(values: Mapping[str, float]) -> dict[str, Any]:
    """Returns what JSON can hold: null for a value that is not finite, named with what it was.

    >>> as_json({"loss": math.nan, "reward": 1.0})
    {'loss': None, 'reward': 1.0, 'not_finite': {'loss': 'nan'}}
    """
    odd = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    finite = {name: None if name in odd else value for name, value in values.items()}
    return {**finite, "not_finite": odd} if odd else finite


def start_tensorboard(run: RunDirectory, after: int) -> Any:
    """Returns a writer of event files whose later steps, if there are any, no longer count."""
    from tensorboardX import SummaryWriter  # slow to import, and not everybody looks at it

    return SummaryWriter(str(run.tensorboard), purge_step=after + 1)


def start_wandb(run: RunDirectory, settings: Mapping[str, Any]) -> Any:
    """Returns the Weights & Biases run that belongs to this one, continued if there is one.

    Raises:
        ValueError: If wandb is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            "The config asks for Weights & Biases, but wandb is not installed."
            " pip install 'rlft_jax[wandb]', or leave config.log.wandb out."
        ) from None
    known = run.wandb_id.read_text().strip() if run.wandb_id.exists() else None
    started = wandb.init(dir=str(run.path), id=known, resume="allow", **settings)
    # wandb's own step cannot go back, and a run that goes on from a checkpoint does.
    started.define_metric("*", step_metric="step")
    run.wandb_id.write_text(started.id + "\n")
    return started


def _number(value: Any) -> float:
    scalar = np.asarray(value.value if isinstance(value, Metric | Count) else value)
    return float(str(scalar)) if scalar.dtype == np.float32 else float(scalar)
