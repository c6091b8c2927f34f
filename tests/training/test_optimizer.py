"""Facts about learning rates, decay and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.training.optimizer import adamw
from tests import tiny


def rates(steps: int, **settings) -> list[float]:
    """The learning rate of every step, in units of the peak."""
    rate = adamw(steps, learning_rate=2.0, **settings).learning_rate
    return [float(rate(jnp.asarray(step))) / 2.0 for step in range(steps)]


def test_a_warm_up_rises_in_equal_parts_and_its_first_step_trains():
    np.testing.assert_allclose(
        rates(6, schedule="constant", warmup_steps=4), [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-6
    )


def test_linear_falls_in_equal_parts():
    np.testing.assert_allclose(rates(4, schedule="linear"), [1, 0.75, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(
        rates(6, schedule="linear", warmup_steps=2, final_share=0.2),
        [0.5, 1, 1, 0.8, 0.6, 0.4],
        rtol=1e-6,
    )


def test_cosine_falls_along_half_a_wave():
    expected = [(1 + np.cos(np.pi * t / 8)) / 2 for t in range(8)]
    np.testing.assert_allclose(rates(8, schedule="cosine"), expected, atol=1e-7)
    floor = rates(8, schedule="cosine", final_share=0.5)
    np.testing.assert_allclose(floor, [0.5 + x / 2 for x in expected], atol=1e-7)


def test_a_run_may_be_all_warm_up():
    np.testing.assert_allclose(rates(2, warmup_steps=4), [0.25, 0.5], rtol=1e-6)


@pytest.mark.parametrize("adapter", [None, dict(rank=2)], ids=["full", "lora"])
def test_norms_and_biases_are_spared_from_decay_though_stacked(adapter):
    params = jax.tree.map(jnp.ones_like, tiny.policy(adapter=adapter).params)
    optimizer = adamw(1, learning_rate=0.1, schedule="constant", weight_decay=0.5).transformation
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(jnp.unique(x)[0])
        for path, x in jax.tree.leaves_with_path(updates)
    }
    spared = {name for name, update in decayed.items() if update == 0}
    np.testing.assert_allclose([x for x in decayed.values() if x], -0.05, rtol=1e-6)
    expected = {
        *("layers/attention_norm/scale", "layers/mlp_norm/scale", "norm/scale"),
        *(f"layers/attention/{part}/bias" for part in "qkv"),
    }
    assert spared == (expected if adapter is None else set())
    assert len(decayed) - len(spared) == (8 if adapter is None else 14)


def test_decay_is_decoupled_from_the_gradient():
    # Adam's first update is the sign of the gradient; the decay comes on top, in units of the rate.
    params = {"kernel": jnp.full((3,), 2.0)}
    optimizer = adamw(
        1, learning_rate=0.1, schedule="constant", weight_decay=0.5, epsilon=0.0, clip_norm=None
    ).transformation
    grads = {"kernel": jnp.array([1e-3, -5.0, 40.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [-0.2, 0.0, -0.2], atol=1e-6)


@pytest.mark.parametrize(("clip_norm", "share"), [(1.0, 0.2), (10.0, 1.0), (None, 1.0)])
def test_gradients_are_clipped_by_their_norm_together(clip_norm, share):
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    optimizer = adamw(1, clip_norm=clip_norm).transformation
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    np.testing.assert_allclose(moments[0], 0.1 * share * 3, rtol=1e-6)
    np.testing.assert_allclose(moments[1], 0.1 * share * 4, rtol=1e-6)
