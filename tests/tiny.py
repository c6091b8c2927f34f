"""A tiny random policy, responses of uneven lengths to train it on, and exact gradients."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rlft_jax.batch import Batch, Responses, pack
from rlft_jax.metrics import Metrics
from rlft_jax.models import lora
from rlft_jax.models.qwen2 import Architecture, Compute, Qwen2
from rlft_jax.packing import first_fit
from rlft_jax.training.optimizer import Optimizer
from rlft_jax.training.step import AnyBatch, Objective, Params, init_state, train_step

ARCHITECTURE = Architecture(
    vocabulary=64,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    feed_forward=64,
    head_width=8,
    rope_theta=10_000.0,
    max_positions=128,
)
FLOAT32 = Compute(head_chunk=16)


class Policy(NamedTuple):
    """A model in the parts that a train step takes."""

    graph: nnx.GraphDef
    params: Params
    frozen: Params

    @property
    def model(self) -> Qwen2:
        """The model itself."""
        return nnx.merge(self.graph, self.params, self.frozen)


def policy(
    architecture: Architecture = ARCHITECTURE,
    *,
    compute: Compute = FLOAT32,
    adapter: dict[str, Any] | None = None,
    seed: int = 0,
) -> Policy:
    """Random float32 parameters, none of them trivial; with an adapter, only that trains."""
    model = Qwen2(architecture, compute=compute, rngs=nnx.Rngs(seed))
    trains: Any = lora.LoRAParam
    if adapter is None:
        trains = nnx.Param
    else:
        lora.add(model, lora.Settings(**adapter), key=jax.random.key(seed))
    graph, params, frozen = nnx.split(model, trains, ...)
    rng = np.random.default_rng(seed)
    shaken = lambda x: x + jnp.asarray(0.1 * rng.standard_normal(x.shape, np.float32))
    pure = nnx.to_pure_dict
    if adapter is None:
        return Policy(graph, jax.tree.map(shaken, pure(params)), {})
    return Policy(graph, pure(params), jax.tree.map(shaken, pure(frozen)))


def with_compute(policy: Policy, **changes: Any) -> Policy:
    """The same numbers, computed in another way."""
    model = policy.model
    model.compute = dataclasses.replace(model.compute, **changes)
    graph = nnx.split(model, nnx.Param, ...)[0] if policy.frozen == {} else None
    assert graph is not None
    return policy._replace(graph=graph)


def responses(
    *, prompts: int = 8, group: int = 2, longest: int = 12, seed: int = 0, scored: bool = True
) -> Responses:
    """Random prompts of a few tokens with random responses of uneven lengths.

    Args:
        scored: Whether there are rewards, advantages and log-probabilities, all of them random.
    """
    rng = np.random.default_rng(seed)
    ends = rng.integers(4, longest + 1, (prompts, group))
    ends.flat[0], ends.flat[-1] = longest, 4
    starts = rng.integers(1, 4, (prompts, 1))
    t = np.arange(longest)
    is_response = (t >= starts[..., None]) & (t < ends[..., None])
    tokens = np.where(t < ends[..., None], rng.integers(0, 64, (prompts, group, longest)), 0)
    made = Responses(tokens.astype(np.int32), is_response, ends.astype(np.int32))
    if not scored:
        return made
    per_token = lambda spread: np.where(
        is_response, spread * rng.standard_normal(is_response.shape), 0
    ).astype(np.float32)
    behind = per_token(0.1) - 4 * is_response.astype(np.float32)
    return made._replace(
        rewards=rng.standard_normal((prompts, group)).astype(np.float32),
        advantages=per_token(1.0),
        sampled_logprobs=behind + per_token(0.05),
        old_logprobs=behind,
        reference_logprobs=behind + per_token(0.3),
    )


def batch_of(
    responses: Responses, *, tokens: int = 16, micro_batches: int = 1, packed: bool = True
) -> Batch:
    """The responses in rows, on the default device."""
    packing = first_fit(
        responses.lengths, tokens=tokens, micro_batches=micro_batches, packed=packed
    )
    return jax.tree.map(jnp.asarray, pack(responses, packing))


def first_micro_batch(batch: AnyBatch) -> Any:
    """What an objective sees of a batch that has one micro-batch."""
    return jax.tree.map(lambda x: x[0], batch)


def _keep_gradient() -> Optimizer:
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    keep = optax.GradientTransformation(zeros, lambda grads, _, __=None: (zeros(grads), grads))
    return Optimizer(keep, lambda step: 0.0)


# Takes no step: its state is the gradient that the train step arrived at.
KEEP_GRADIENT = _keep_gradient()
# Compiled twice as fast, and run slower, which does not matter at this size.
QUICKLY = {"xla_backend_optimization_level": 0}
compiled_step = jax.jit(
    train_step,
    static_argnames=("graph", "objective", "optimizer", "seed", "dropout"),
    compiler_options=QUICKLY,
)


def gradient(policy: Policy, objective: Objective, batch: AnyBatch) -> tuple[Params, Metrics]:
    """Gradient of a train step over all micro-batches, and its metrics."""
    state, metrics = compiled_step(
        init_state(policy.params, KEEP_GRADIENT),
        policy.frozen,
        batch,
        graph=policy.graph,
        objective=objective,
        optimizer=KEEP_GRADIENT,
        seed=0,
    )
    return state.opt_state, metrics


def distance(a: Params, b: Params) -> float:
    """Norm of the difference of two trees, relative to the second's norm."""
    norm = lambda tree: np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree)))
    double = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    a, b = double(a), double(b)
    return float(norm(jax.tree.map(np.subtract, a, b)) / norm(b))


def assert_bit_equal(a: Any, b: Any) -> None:
    """Two trees hold the same bits."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
