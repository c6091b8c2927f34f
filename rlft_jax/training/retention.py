"""Which checkpoints to keep."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Mode = Literal["max", "min"]


# Metrics of which less is better.
LOWER_IS_BETTER = ("eval_loss", "eval_truncated", "eval_mean_length")


def best_mode(metric: str, weights: Mapping[str, int | float]) -> Mode:
    """Whether the highest or the lowest value of a metric is best.

    Args:
        weights: Of rewards, by name: less is better of one that counts against a response.

    >>> best_mode("eval_loss", {}), best_mode("eval_rewards/short", {"short": 1.0})
    ('min', 'max')
    >>> best_mode("eval_rewards/length", {"length": -0.01})
    'min'
    """
    reward = metric.partition("rewards/")[2]
    is_low = metric in LOWER_IS_BETTER or weights.get(reward, 0) < 0
    return "min" if is_low else "max"


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
