"""One optimiser step: pure, and the same for every algorithm and every mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Int, PyTree

from rlft_jax.batch import Batch
from rlft_jax.metrics import Mean, Metrics
from rlft_jax.training.optimizer import Optimizer

Params = PyTree[Array]
Objective = Callable[[Any, Batch], Metrics]


class TrainState(NamedTuple):
    """Everything that changes from one step to the next on the devices.

    Restoring it and the source's state restores the run exactly: random keys are
    `fold_in(seed, step, micro_batch)`, so there is no key to save.

    Attributes:
        params: The trainable ones: all of them, or the adapters.
        skipped: Updates left out because a loss or a gradient was not finite, in all and
            since the last good one.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    skipped: Int[Array, "2"]


def init_state(params: Params, optimizer: Optimizer) -> TrainState:
    """State of a run that has not taken a step."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optimizer.transformation.init(params), jnp.zeros(2, jnp.int32))


def train_step(
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    graph: nnx.GraphDef,
    objective: Objective,
    optimizer: Optimizer,
    seed: int,
    dropout: bool = False,
) -> tuple[TrainState, Metrics]:
    """Takes one optimiser step on the mean loss over all micro-batches.

    Pure: jit it, donate `state`, shard it as you like. The gradient does not depend on how the
    batch is cut beyond rounding, however unevenly tokens fall into micro-batches, because
    totals and weights are summed before dividing. A loss or gradient that is not finite leaves
    parameters and optimizer as they were.

    Args:
        frozen: Parameters without gradients; merged with the trainable ones.
        graph: Structure of the model.
        objective: What to minimise, as a function of the model and a micro-batch.
        seed: Start of all random keys.
        dropout: Whether adapters drop inputs.
    """

    def loss(params: Params, key: Array, micro_batch: Batch) -> tuple[Array, Metrics]:
        model = nnx.merge(graph, params, frozen)
        if dropout:
            model.dropout_key = key
        metrics = objective(model, micro_batch)
        return metrics["loss"].total, metrics

    def add(grads: Params, numbered: tuple[Array, Batch]) -> tuple[Params, Metrics]:
        number, micro_batch = numbered
        new, metrics = jax.grad(loss, has_aux=True)(
            state.params, jax.random.fold_in(step_key, number), micro_batch
        )
        return jax.tree.map(jnp.add, grads, new), metrics

    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    M = batch.tokens.shape[0]
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    grads, metrics = jax.lax.scan(add, zeros, (jnp.arange(M), batch))
    metrics = jax.tree.map(lambda x: x.sum(0), metrics)
    grads = jax.tree.map(lambda g: g / jnp.maximum(metrics["loss"].weight, 1), grads)

    norm = optax.tree.norm(grads)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"].total)
    updates, opt_state = optimizer.transformation.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {
        "grad_norm": _one(norm),
        "learning_rate": _one(optimizer.learning_rate(state.step - state.skipped[0])),
        "num_tokens": Mean((batch.segments > 0).sum().astype(jnp.float32), jnp.ones(())),
        "skipped_updates": _one((state.skipped[0] + ~is_finite).astype(jnp.float32)),
    }
    kept = _choose(is_finite, (params, opt_state), (state.params, state.opt_state))
    skipped = jnp.where(is_finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
    return TrainState(state.step + 1, *kept, skipped), metrics


def score_step(
    params: Params, frozen: Params, batch: Batch, *, graph: nnx.GraphDef, score: Callable
) -> PyTree[Array]:
    """Applies `score` of model and micro-batch to each micro-batch, without gradients."""
    model = lambda: nnx.merge(graph, params, frozen)
    return jax.lax.map(lambda micro_batch: score(model(), micro_batch), batch)


def _choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _one(value: Array | float) -> Mean:
    """A metric that is a number, not a mean over something."""
    return Mean(jnp.asarray(value, jnp.float32), jnp.ones(()))
