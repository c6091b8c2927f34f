"""Metrics that add up exactly over micro-batches, devices, hosts and evaluation batches."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


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

    @property
    def value(self) -> Float[Array, ""]:
        """The mean itself; 0 if it is over nothing."""
        return self.total / jnp.maximum(self.weight, 1)


Metrics = dict[str, Mean]
