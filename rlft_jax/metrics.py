"""Metrics that combine exactly over micro-batches, devices, hosts and evaluation batches."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32


class Mean(NamedTuple):
    """A mean kept as a total and its weight, so that adding two of them is exact.

    >>> import jax
    >>> a, b = Mean.of(jnp.array([1.0, 2.0])), Mean.of(jnp.array([6.0]))
    >>> float(jax.tree.map(jnp.add, a, b).value)
    3.0
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def of(cls, values: Shaped[Array, "..."], where: Bool[Array, "..."] | None = None) -> "Mean":
        """Mean of `values`, over the entries where `where` is true."""
        values = values.astype(jnp.float32)
        where = jnp.ones(values.shape, bool) if where is None else where
        return cls(jnp.where(where, values, 0).sum(), where.sum().astype(jnp.float32))

    def merged(self) -> "Mean":
        """Of means stacked along a first axis, the one of all their values."""
        return Mean(self.total.sum(0), self.weight.sum(0))

    @property
    def value(self) -> Float[Array, ""]:
        """The mean itself; 0 if it is over nothing."""
        return self.total / jnp.maximum(self.weight, 1)


class Largest(NamedTuple):
    """The largest of some values; minus infinity while there are none."""

    bound: Float[Array, ""]

    @classmethod
    def of(cls, values: Shaped[Array, "..."], where: Bool[Array, "..."]) -> "Largest":
        """The largest of `values` where `where` is true."""
        return cls(jnp.where(where, values.astype(jnp.float32), -jnp.inf).max())

    def merged(self) -> "Largest":
        """Of several stacked along a first axis, the one of all their values."""
        return Largest(self.bound.max(0))

    @property
    def value(self) -> Float[Array, ""]:
        """The value itself; 0 if there is none."""
        return jnp.where(jnp.isneginf(self.bound), 0, self.bound)


class Smallest(NamedTuple):
    """The smallest of some values; infinity while there are none."""

    bound: Float[Array, ""]

    @classmethod
    def of(cls, values: Shaped[Array, "..."], where: Bool[Array, "..."]) -> "Smallest":
        """The smallest of `values` where `where` is true."""
        return cls(jnp.where(where, values.astype(jnp.float32), jnp.inf).min())

    def merged(self) -> "Smallest":
        """Of several stacked along a first axis, the one of all their values."""
        return Smallest(self.bound.min(0))

    @property
    def value(self) -> Float[Array, ""]:
        """The value itself; 0 if there is none."""
        return jnp.where(jnp.isposinf(self.bound), 0, self.bound)


Metric: TypeAlias = Mean | Largest | Smallest
Metrics: TypeAlias = Mapping[str, Metric]


def merged(metrics: Metrics) -> dict[str, Metric]:
    """Metrics of the whole, from those of its parts stacked along a first axis.

    >>> parts = {"ratio/max": Largest(jnp.array([1.0, 3.0]))}
    >>> float(merged(parts)["ratio/max"].value)
    3.0
    """
    return {name: metric.merged() for name, metric in metrics.items()}


def with_extremes(
    name: str, values: Float[Array, "..."], where: Bool[Array, "..."]
) -> dict[str, Metric]:
    """Mean, smallest and largest of `values` where `where` is true, under TRL's names for such."""
    return {
        f"{name}/mean": Mean.of(values, where),
        f"{name}/min": Smallest.of(values, where),
        f"{name}/max": Largest.of(values, where),
    }


class Count(NamedTuple):
    """A whole number below 2^64, exactly. JAX has no such integers unless told to.

    >>> count = Count.zero().plus(jnp.array(2**31 - 1)).plus(jnp.array(2**31 - 1))
    >>> count.plus(jnp.array(3)).value == 2**32 + 1
    True
    """

    low: UInt32[Array, ""]
    high: UInt32[Array, ""]

    @classmethod
    def zero(cls) -> "Count":
        """Nothing counted yet."""
        return cls(jnp.zeros((), jnp.uint32), jnp.zeros((), jnp.uint32))

    def plus(self, more: Int[Array, ""]) -> "Count":
        """This and `more`, which must not be negative."""
        low = self.low + more.astype(jnp.uint32)  # wraps around
        return Count(low, self.high + (low < self.low).astype(jnp.uint32))

    @property
    def value(self) -> int:
        """The number, on the host."""
        return int(self.high) << 32 | int(self.low)


StepMetrics: TypeAlias = Mapping[str, Metric | Count]
