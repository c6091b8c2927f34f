"""Facts about one optimiser step, whatever it optimises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rlft_jax.logprobs import response_logprobs
from rlft_jax.metrics import Mean
from rlft_jax.models import lora
from rlft_jax.objectives import sft
from rlft_jax.training.optimizer import adamw
from rlft_jax.training.step import init_state, train_step
from tests import tiny

POLICY = tiny.policy()
BATCH = tiny.batch_of(tiny.responses(), micro_batches=2)
OPTIMIZER = adamw(10, learning_rate=1e-2, schedule="linear", weight_decay=0.1)
ADAPTER = dict(rank=4, alpha=8.0, targets=("q_proj", "down_proj"))


def step_of(policy: tiny.Policy, objective=sft.objective, **settings):
    """A step without all that stays the same."""
    step = functools.partial(
        tiny.compiled_step,
        graph=policy.graph,
        objective=objective,
        optimizer=OPTIMIZER,
        seed=3,
        **settings,
    )
    return lambda state, batch: step(state, policy.frozen, batch)


def poisoned(model, batch):
    """SFT whose loss is multiplied by the first reward, and whose gradient fears an advantage of 0.

    The root of 0 has a value, but no slope.
    """
    metrics = sft.objective(model, batch)
    loss = metrics["loss"]
    root = jnp.sqrt(batch.advantages.ravel()[0] * (1 + loss.total))
    total = loss.total * batch.rewards.ravel()[0] + root - jax.lax.stop_gradient(root)
    return {**metrics, "loss": Mean(total, loss.weight)}


def with_poison(reward: float = 1.0, advantage: float = 1.0):
    """The batch with a reward and an advantage, the same everywhere in its last micro-batch."""
    fill = lambda field, value: jnp.ones_like(field).at[-1].set(value)
    return BATCH._replace(
        rewards=fill(BATCH.rewards, reward), advantages=fill(BATCH.advantages, advantage)
    )


def test_training_on_a_batch_lowers_its_loss():
    state, step = init_state(POLICY.params, OPTIMIZER), step_of(POLICY)
    losses = []
    for _ in range(5):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"].value))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    assert state.step == 5
    assert state.tokens.value == 5 * (BATCH.segments > 0).sum()


def test_a_gradients_norm_is_reported_before_clipping():
    gradient, metrics = tiny.gradient(POLICY, sft.objective, BATCH)
    norm = np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in jax.tree.leaves(gradient)))
    assert norm > 1.0
    np.testing.assert_allclose(metrics["grad_norm"].value, norm, rtol=1e-5)


@pytest.mark.parametrize(
    "poison", [dict(reward=np.nan), dict(reward=np.inf), dict(advantage=0.0)], ids=str
)
def test_what_is_not_finite_changes_nothing_and_is_counted(poison):
    start, step = init_state(POLICY.params, OPTIMIZER), step_of(POLICY, poisoned)
    good, bad = with_poison(), with_poison(**poison)
    first, _ = step(start, good)

    second, metrics = step(first, bad)
    tiny.assert_bit_equal((second.params, second.opt_state), (first.params, first.opt_state))
    assert np.isfinite(metrics["loss"].total) == ("advantage" in poison)
    assert not np.isfinite(metrics["grad_norm"].total)
    np.testing.assert_array_equal(second.skipped, [1, 1])
    assert second.tokens.value == 2 * first.tokens.value
    assert metrics["skipped_updates"].value == 1
    third, _ = step(second, bad)
    np.testing.assert_array_equal(third.skipped, [2, 2])

    # The next good step is the second one, with the second learning rate.
    fourth, metrics = step(third, good)
    expected, expected_metrics = step(first, good)
    tiny.assert_bit_equal((fourth.params, fourth.opt_state), (expected.params, expected.opt_state))
    assert metrics["learning_rate"].value == expected_metrics["learning_rate"].value < 1e-2
    np.testing.assert_array_equal(fourth.skipped, [2, 0])
    assert fourth.step == 4


def test_every_micro_batch_of_every_step_has_a_key_of_its_own():
    def reports_key(model, batch):
        metrics = sft.objective(model, batch)
        return {**metrics, "key": Mean(jax.random.uniform(model.dropout_key), jnp.ones(()))}

    policy = tiny.policy(adapter=dict(dropout=0.5, **ADAPTER))
    state, step = init_state(policy.params, OPTIMIZER), step_of(policy, reports_key, dropout=True)
    fold, drawn = jax.random.fold_in, []
    for number in range(2):
        state, metrics = step(state, BATCH)
        keys = [fold(fold(jax.random.key(3), number), m) for m in range(2)]
        drawn += [float(jax.random.uniform(key)) for key in keys]
        np.testing.assert_allclose(metrics["key"].total, sum(drawn[-2:]), rtol=1e-6)
    assert len(set(drawn)) == 4


def test_dropout_changes_the_loss_only_when_it_is_on():
    policy = tiny.policy(adapter=dict(dropout=0.5, **ADAPTER))
    params = jax.tree.map(lambda x: x + 0.1, policy.params)
    state = init_state(params, OPTIMIZER)
    loss = lambda step, state: float(step(state, BATCH)[1]["loss"].value)
    on, off = step_of(policy, dropout=True), step_of(policy)
    later = state._replace(step=state.step + 1)
    assert loss(off, state) == loss(off, later)
    assert len({loss(off, state), loss(on, state), loss(on, later)}) == 3
    assert loss(on, state) == loss(on, state)


def test_the_state_may_be_donated():
    expected, _ = step_of(POLICY)(init_state(POLICY.params, OPTIMIZER), BATCH)
    step = jax.jit(
        functools.partial(
            train_step, graph=POLICY.graph, objective=sft.objective, optimizer=OPTIMIZER, seed=3
        ),
        donate_argnums=0,
        compiler_options=tiny.QUICKLY,
    )
    state = init_state(jax.tree.map(jnp.copy, POLICY.params), OPTIMIZER)
    actual, _ = step(state, {}, BATCH)
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state)))
    tiny.assert_bit_equal(actual, expected)


def test_only_adapters_train_and_with_them_off_the_reference_remains():
    policy = tiny.policy(adapter=ADAPTER)
    base = tiny.policy().graph
    micro_batch = jax.tree.map(lambda x: x[0], BATCH)
    score = jax.jit(response_logprobs)
    reference = score(nnx.merge(base, policy.frozen), micro_batch)
    # New adapters add nothing, not even a rounding error.
    np.testing.assert_array_equal(score(policy.model, micro_batch), reference)

    before = jax.tree.map(np.array, policy.frozen)
    state, _ = step_of(policy)(init_state(policy.params, OPTIMIZER), BATCH)
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state.params)]
    assert len(names) == 4
    assert all("lora" in name for name in names)
    tiny.assert_bit_equal(policy.frozen, before)
    moved = policy._replace(params=state.params)
    assert np.abs(score(moved.model, micro_batch) - reference).max() > 1e-4
    np.testing.assert_array_equal(score(nnx.merge(base, policy.frozen), micro_batch), reference)


def test_an_adapters_gradient_is_that_of_its_part_of_the_whole():
    policy = tiny.policy(adapter=ADAPTER)
    gradient, _ = tiny.gradient(policy, sft.objective, BATCH)
    every = nnx.merge(policy.graph, policy.params, policy.frozen)
    graph, params = nnx.split(every)
    whole, _ = tiny.gradient(tiny.Policy(graph, nnx.to_pure_dict(params), {}), sft.objective, BATCH)
    adapters = nnx.to_pure_dict(nnx.state(every, lora.LoRAParam))
    assert jax.tree.structure(gradient) == jax.tree.structure(adapters)
    for path, ours in jax.tree.leaves_with_path(gradient):
        theirs = functools.reduce(lambda tree, key: tree[key.key], path, whole)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
