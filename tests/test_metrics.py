"""Metrics of the parts make that of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.metrics import Count, Largest, Mean, Smallest, merged, with_extremes

VALUES = jnp.array([[3.0, -2.0, 7.0], [5.0, 9.0, -4.0]])
WHERE = jnp.array([[True, True, False], [True, False, False]])


@pytest.mark.parametrize("kind", [Mean, Largest, Smallest])
def test_parts_make_the_whole(kind):
    parts = jax.vmap(kind.of)(VALUES, WHERE)
    whole = merged({"a": parts})["a"]
    assert whole == kind.of(VALUES, WHERE)
    assert whole.value == {Mean: 2, Largest: 5, Smallest: -2}[kind]


@pytest.mark.parametrize("kind", [Mean, Largest, Smallest])
def test_a_part_without_values_does_not_count(kind):
    parts = jax.vmap(kind.of)(VALUES, WHERE.at[1].set(False))
    assert merged({"a": parts})["a"] == kind.of(VALUES[0], WHERE[0])


@pytest.mark.parametrize("kind", [Mean, Largest, Smallest])
def test_nothing_is_zero(kind):
    assert kind.of(VALUES, jnp.zeros_like(WHERE)).value == 0


def test_what_is_not_a_number_stays_seen():
    found = with_extremes("ratio", VALUES.at[0, 0].set(jnp.nan), WHERE)
    assert sorted(found) == ["ratio/max", "ratio/mean", "ratio/min"]
    assert all(np.isnan(metric.value) for metric in found.values())


def test_a_count_goes_on_past_32_bits():
    plus, total = jax.jit(Count.plus), 0
    count = Count.zero()
    for more in [*np.random.default_rng(0).integers(2**30, 2**31, 9), 0, 1]:
        count, total = plus(count, jnp.asarray(more, jnp.int32)), total + int(more)
        assert count.value == total
    assert total > 2**33
