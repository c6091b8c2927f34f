"""One optimiser step: pure, and the same for every algorithm and every mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Int, PyTree

from rlft_jax.batch import Batch
from rlft_jax.metrics import Count, Mean, Metrics, StepMetrics, merged
from rlft_jax.texts import TextBatch
from rlft_jax.training.optimizer import Optimizer

Params = PyTree[Array]
AnyBatch = Batch | TextBatch
Objective = Callable[[Any, Any], Metrics]  # of a model and its kind of micro-batch


class TrainState(NamedTuple):
    """Everything that changes from one step to the next on the devices.

    Restoring it and the source's state restores the run exactly: random keys are
    `fold_in(seed, step, micro_batch)`, so there is no key to save.

    Attributes:
        params: The trainable ones: all of them, or the adapters.
        skipped: Updates left out because a loss or a gradient was not finite, in all and
            since the last good one.
        tokens: Trained on so far, prompts and repeated updates included; a prompt that responses
            share counts for each of them.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    skipped: Int[Array, "2"]
    tokens: Count


def init_state(params: Params, optimizer: Optimizer) -> TrainState:
    """State of a run that has not taken a step."""
    zero = jnp.zeros((), jnp.int32)
    opt_state = optimizer.transformation.init(params)
    return TrainState(zero, params, opt_state, jnp.zeros(2, jnp.int32), Count.zero())


def train_step(
    state: TrainState,
    frozen: Params,
    batch: AnyBatch,
    *,
    graph: nnx.GraphDef,
    objective: Objective,
    optimizer: Optimizer,
    seed: int,
    dropout: bool = False,
) -> tuple[TrainState, StepMetrics]:
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

    def loss(params: Params, key: Array, micro_batch: AnyBatch) -> tuple[Array, Metrics]:
        model = nnx.merge(graph, params, frozen)
        if dropout:
            model.dropout_key = key
        metrics = objective(model, micro_batch)
        return _loss(metrics).total, metrics

    def add(grads: Params, numbered: tuple[Array, AnyBatch]) -> tuple[Params, Metrics]:
        number, micro_batch = numbered
        new, metrics = jax.grad(loss, has_aux=True)(
            state.params, jax.random.fold_in(step_key, number), micro_batch
        )
        return jax.tree.map(jnp.add, grads, new), metrics

    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    M = batch.tokens.shape[0]
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    grads, metrics = jax.lax.scan(add, zeros, (jnp.arange(M), batch))
    metrics = merged(metrics)
    mean = _loss(metrics)
    grads = jax.tree.map(lambda g: g / jnp.maximum(mean.weight, 1), grads)

    norm = optax.tree.norm(grads)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(mean.total)
    updates, opt_state = optimizer.transformation.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {
        "grad_norm": _one(norm),
        "learning_rate": _one(optimizer.learning_rate(state.step - state.skipped[0])),
        "skipped_updates": _one((state.skipped[0] + ~is_finite).astype(jnp.float32)),
    }
    before = (state.params, state.opt_state)
    params, opt_state = _choose(is_finite, (params, opt_state), before)
    skipped = jnp.where(is_finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
    tokens = state.tokens.plus(_tokens(batch))
    # Given beside the state, whose buffers are the next step's by the time that they are looked at.
    in_a_row = _one(skipped[1].astype(jnp.float32))
    found = {**metrics, "num_tokens": tokens, "skipped_in_a_row": in_a_row}
    return TrainState(state.step + 1, params, opt_state, skipped, tokens), found


def score_step(
    params: Params, frozen: Params, batch: AnyBatch, *, graph: nnx.GraphDef, score: Callable
) -> PyTree[Array]:
    """Applies `score` of model and micro-batch to each micro-batch, without gradients."""
    model = lambda: nnx.merge(graph, params, frozen)
    return jax.lax.map(lambda micro_batch: score(model(), micro_batch), batch)


def _tokens(batch: AnyBatch) -> Int[Array, ""]:
    """Tokens of all texts; one whose first tokens another has begins at a later position."""
    is_real = batch.segments > 0
    before = jnp.pad(batch.segments[..., :-1], [(0, 0)] * (batch.segments.ndim - 1) + [(1, 0)])
    left_out = jnp.where(is_real & (batch.segments != before), batch.positions, 0)
    return is_real.sum() + left_out.sum()


def _loss(metrics: Metrics) -> Mean:
    loss = metrics["loss"]
    assert isinstance(loss, Mean), loss
    return loss


def _choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _one(value: Array | float) -> Mean:
    """A metric that is a number, not a mean over something."""
    return Mean(jnp.asarray(value, jnp.float32), jnp.ones(()))
