"""Which checkpoints to keep."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Mode = Literal["max", "min"]


def best_mode(metric: str) -> Mode:
    """Whether the highest or the lowest value of a metric is best: a loss should be low.

    >>> best_mode("eval_loss"), best_mode("eval_accuracy")
    ('min', 'max')
    """
    return "min" if metric.endswith("loss") else "max"


class Retention(NamedTuple):
    """Keeps a step if any of these says so.

    Attributes:
        last: How many of the newest to keep, at least 1.
        every: Keeps steps that this divides for good.
        best: How many of those with the best metric to keep.
        mode: Whether the highest or the lowest metric is best.
    """

    last: int = 2
    every: int | None = None
    best: int = 0
    mode: Mode = "max"

    def check(self) -> None:
        """Raises a ValueError that names every setting which makes no sense."""
        is_mode = self.mode in ("max", "min")
        wrong = [
            *([f"keep_last = {self.last} is less than 1."] if self.last < 1 else []),
            *([f"keep_every = {self.every} is less than 1."] if (self.every or 1) < 1 else []),
            *([f"keep_best = {self.best} is less than 0."] if self.best < 0 else []),
            *([f"best_mode = {self.mode!r} is not max or min."] if not is_mode else []),
        ]
        if wrong:
            raise ValueError("Checkpoints cannot be kept like this:\n- " + "\n- ".join(wrong))

    def ranked(self, metrics: Mapping[int, float | None]) -> list[int]:
        """Steps that have a metric, best first; of equals, the earlier.

        >>> Retention(mode="max").ranked({1: 0.5, 2: 0.7, 3: None, 4: 0.7})
        [2, 4, 1]
        """
        sign = -1 if self.mode == "max" else 1
        keys = {
            step: (sign * metric, step) for step, metric in metrics.items() if metric is not None
        }
        return sorted(keys, key=keys.__getitem__)

    def kept(self, metrics: Mapping[int, float | None]) -> set[int]:
        """The steps to keep of those that have, or lack, these metrics.

        >>> sorted(Retention(last=1, every=2, best=1).kept({1: 0.9, 2: None, 3: 0.1, 4: 0, 5: 0}))
        [1, 2, 4, 5]
        """
        return {
            *sorted(metrics)[-self.last :],
            *self.ranked(metrics)[: self.best],
            *(step for step in metrics if self.every and step % self.every == 0),
        }
