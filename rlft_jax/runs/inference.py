"""A policy at work and not in training: a copy on every device, and rows dealt over them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlft_jax.batch import Batch
from rlft_jax.logprobs import response_logprobs
from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.models.qwen2 import Compute
from rlft_jax.rollout import Score
from rlft_jax.runs import loading
from rlft_jax.runs.loading import Origin, Policy
from rlft_jax.sampling.sampler import Sampler
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.sampling.transcripts import Completion
from rlft_jax.training.feeding import Feed, scorer
from rlft_jax.training.sharding import ROWS, make_mesh, replicated
from rlft_jax.training.step import Params, score_step

# Completes as many prompts as the sequence is long, from the one of this number on.
Sample = Callable[[Sequence[Any], int], list[list[Completion]]]


class Replicas(NamedTuple):
    """A policy with a copy of its parameters on every device of a mesh."""

    policy: Policy
    mesh: Mesh


def load_replicas(
    model: str | Origin, compute: Compute | None = None, *, mesh: Mesh | None = None
) -> Replicas:
    """Loads a policy onto every device.

    Args:
        model: A Hugging Face folder, a name on the hub, a run directory, or what `find` found.
        mesh: Whose devices; if left out, all there are.
    """
    mesh = mesh or make_mesh(data=jax.device_count(), fsdp=1)
    return Replicas(loading.load(model, compute=compute, shardings=replicated(mesh)), mesh)


def sample_from(
    replicas: Replicas,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    *,
    samples: int = 1,
    seed: int,
) -> Sample:
    """Returns a function that completes some of the prompts, `samples` times each.

    Completions end where the policy's checkpoint says, too. The randomness of a prompt goes by
    its number among all.
    """
    policy, mesh = replicas
    settings = dataclasses.replace(settings, stop_ids=policy.origin.stop_ids)
    sampler = Sampler(policy.graph, settings, decode=policy.origin.tokenizer.decode, mesh=mesh)

    def sample(chosen: Sequence[Any], first: int) -> list[list[Completion]]:
        numbers = range(first, first + len(chosen))
        posed = [prompts[i] for i in numbers]
        return sampler(policy.params, posed, samples=samples, seed=seed, requests=numbers)

    return sample


def policy_score(
    graph: nnx.GraphDef, frozen: Params, feed: Feed, temperature: float = 1.0
) -> Score:
    """Returns a function of parameters and responses that gives each token's log-probability."""
    score = functools.partial(response_logprobs, temperature=temperature)
    compiled = jax.jit(
        functools.partial(on_mesh(feed.mesh, score_step), graph=graph, score=score),
        out_shardings=NamedSharding(feed.mesh, P(None, ROWS)),
    )

    def of_batch(params: Params, batch: Batch) -> jax.Array:
        return compiled(params, frozen, batch)

    return scorer(of_batch, feed)
