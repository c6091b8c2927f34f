"""Log-probabilities of given tokens and their gradient, and what they take of memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from rlft_jax.bench.compiled import Compiled, peak_bytes
from rlft_jax.bench.timing import repeated
from rlft_jax.logprobs import head_scores
from rlft_jax.models.qwen2 import Architecture, Compute, Qwen2
from rlft_jax.runs.loading import Shapes
from rlft_jax.training.step import Params

Logprobs = Callable[[Qwen2, Array, Array], Array]


def measure(
    a: Architecture, compute: Compute, *, rows: int, tokens: int, steps: int
) -> dict[str, Any]:
    """Compiles and times the head of a model, by the chunked function and all at once.

    The gradient is that of the mean log-probability, by hidden states and head.

    Args:
        a: Sizes of the model.
        compute: How to compute.
        rows: Rows of tokens.
        tokens: Tokens of a row.
        steps: Repetitions that count; with 0 nothing is run.
    """
    # One layer, which is not used, so that the head is all there is.
    graph, params = nnx.split(
        nnx.eval_shape(
            lambda: Qwen2(dataclasses.replace(a, layers=1), compute=compute, rngs=nnx.Rngs(0))
        )
    )
    shapes = nnx.to_pure_dict(params)
    name = "embed" if a.tied else "head"
    head = {name: shapes[name]}
    others = {k: v for k, v in shapes.items() if k != name}
    hidden = jax.ShapeDtypeStruct((rows, tokens, a.width), jnp.dtype(compute.dtype))
    targets = jax.ShapeDtypeStruct((rows, tokens), jnp.int32)
    found = {
        name: _measured(logprobs, graph, head, others, hidden, targets, steps=steps)
        for name, logprobs in (("chunked", chunked), ("whole", whole))
    }
    ours = found["chunked"]
    seconds = ours.get("step_seconds")
    rate = {} if seconds is None else {"tokens_per_second": rows * tokens / seconds}
    return {**ours, **rate, "whole_logits": found["whole"], "device_peak_bytes": peak_bytes()}


def chunked(
    model: Qwen2, hidden: Float[Array, "R T D"], targets: Int[Array, "R T"]
) -> Float[Array, "R T"]:
    """What every objective uses, where all positions bear the loss."""
    return head_scores(model, hidden, targets, targets >= 0).logprobs


def whole(
    model: Qwen2, hidden: Float[Array, "R T D"], targets: Int[Array, "R T"]
) -> Float[Array, "R T"]:
    """All logits at once, to compare with: the chosen one minus the log of the sum of all."""
    logits_RTV = model.unembed(hidden)
    chosen_RT1 = jnp.take_along_axis(logits_RTV, targets[..., None], axis=-1)
    return chosen_RT1[..., 0] - jax.nn.logsumexp(logits_RTV, axis=-1)


def _measured(
    logprobs: Logprobs,
    graph: nnx.GraphDef,
    head: Shapes,
    others: Shapes,
    hidden: jax.ShapeDtypeStruct,
    targets: jax.ShapeDtypeStruct,
    *,
    steps: int,
) -> dict[str, Any]:
    def loss(head: Params, hidden: Array, targets: Array, others: Params) -> Array:
        model = nnx.merge(graph, {**head, **others})
        return -logprobs(model, hidden, targets).mean()

    jitted = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), keep_unused=False)
    compiled = Compiled.of(jitted, head, hidden, targets, others)
    found: dict[str, Any] = {
        "compile_seconds": compiled.seconds,
        "memory_bytes": compiled.memory,
    }
    if steps:
        make = lambda x: jax.random.normal(jax.random.key(0), x.shape, x.dtype) * 0.02
        ids = jax.random.randint(jax.random.key(1), targets.shape, 0, 256)
        arguments = (jax.tree.map(make, head), make(hidden), ids, jax.tree.map(make, others))
        taken = repeated(lambda: compiled.program(*arguments), times=steps)
        found["step_seconds"] = taken.median
    return found
