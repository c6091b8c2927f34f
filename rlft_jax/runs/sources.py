"""Where a run's batches come from: demonstrations, or the policy at work."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlft_jax.batch import Batch, Responses
from rlft_jax.config.binding import bind
from rlft_jax.data.pipeline import Batches, batches
from rlft_jax.data.problems import encode_problem
from rlft_jax.logprobs import response_logprobs
from rlft_jax.objectives import rloo
from rlft_jax.rewards import RewardError, WeightedRewards
from rlft_jax.rollout import Engine, Rewarded, Rollout, Score
from rlft_jax.runs import loading
from rlft_jax.runs.plan import Plan
from rlft_jax.sampling.sampler import Completion, Sampler, SamplingSettings
from rlft_jax.tasks.problem import Problem
from rlft_jax.training.feeding import scorer
from rlft_jax.training.loop import Draw, Source
from rlft_jax.training.sharding import ROWS, local_copy
from rlft_jax.training.step import Params, score_step


class Demonstrations:
    """A source that deals out examples to imitate."""

    def __init__(self, examples: Batches):
        self._examples = examples

    def next(self, params: Params, step: int) -> Draw:
        """The next examples, one response each."""
        return Draw(Responses.of([[example] for example in next(self._examples)]), {})

    def state(self) -> dict[str, Any]:
        """Position among the examples."""
        return self._examples.get_state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on exactly where `state` was taken."""
        self._examples.set_state(state)


def make_source(plan: Plan, frozen: Params, reference: Params | None) -> Source:
    """The source that a run's config describes, at its beginning."""
    config, processes = plan.config, jax.process_count()
    prompts = config["batch"]["prompts"]
    if plan.is_rl:
        prompts *= config["rollout"]["minibatches"]
    stream = batches(
        plan.data.parts,
        prompts=prompts // processes,
        seed=config["seed"],
        weights=plan.data.weights,
        process=jax.process_index(),
        processes=processes,
    )
    if not plan.is_rl:
        return Demonstrations(stream)
    engine = make_engine(plan, frozen, reference)
    return bind(Rollout, config["rollout"])(stream, engine, jax.process_index(), processes)


def make_engine(plan: Plan, frozen: Params, reference: Params | None) -> Engine:
    """What rollouts are done with."""
    config, tokenizer = plan.config, plan.origin.tokenizer
    assert plan.reward is not None
    settings = SamplingSettings(stop_ids=plan.origin.stop_ids, **config["sampling"])
    sample, advantages = policy_sampler(plan, frozen, settings), config["advantages"]
    is_reused = config["rollout"]["updates"] * config["rollout"]["minibatches"] > 1
    old_score = reference_score = None
    if is_reused or advantages["kl_weight"]:
        old_score = policy_score(plan, plan.structure.graph, frozen)
    if reference is not None:
        of_reference = policy_score(plan, plan.base.graph, {})
        reference_score = lambda _, responses: of_reference(reference, responses)
    return Engine(
        encode=lambda problem: encode_problem(problem, tokenizer),
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        sample=lambda params, prompts, samples, numbers: sample(
            params, prompts, samples=samples, seed=config["seed"], requests=numbers
        ),
        reward=on_all_processes(plan.reward),
        advantages=bind(rloo.advantages, advantages),
        old_score=old_score,
        reference_score=reference_score,
    )


def on_all_processes(reward: WeightedRewards) -> WeightedRewards | Callable[..., Rewarded]:
    """A reward that fails everywhere if it fails on one process, so that all save and stop."""
    if jax.process_count() == 1:
        return reward

    def rewarded(problems: Sequence[Problem], responses: Sequence[str]) -> Rewarded:
        result, failure = None, None
        try:
            result = reward(problems, responses)
        except RewardError as error:
            failure = error
        if multihost_utils.process_allgather(np.array(failure is not None)).any():
            raise failure or RewardError("A reward failed in another process, which says how.")
        assert result is not None
        return result

    return rewarded


def policy_sampler(plan: Plan, frozen: Params, settings: SamplingSettings):
    """A function that samples, by the trainable parameters, on this process' devices."""
    is_shared = jax.process_count() == 1 and plan.mesh.size > 1
    sampler = Sampler(
        plan.structure.graph,
        settings,
        decode=plan.origin.tokenizer.decode,
        mesh=plan.mesh if is_shared else None,
    )

    def sample(params: Params, prompts: list[list[int]], **how: Any) -> list[list[Completion]]:
        whole = loading.merged_trees(params, frozen)
        return sampler(local_copy(whole, plan.mesh), prompts, **how)

    return sample


def policy_score(plan: Plan, graph: Any, frozen: Params) -> Score:
    """A function that scores responses under a model's parameters."""
    score = functools.partial(response_logprobs, temperature=plan.temperature)
    compiled = jax.jit(
        functools.partial(score_step, graph=graph, score=score),
        out_shardings=NamedSharding(plan.mesh, P(None, ROWS)),
    )

    def of_batch(params: Params, batch: Batch) -> jax.Array:
        return compiled(params, frozen, batch)

    return scorer(of_batch, plan.feed)
