"""Where a run's batches come from: data that others wrote, or the policy at work."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rlft_jax.batch import Responses
from rlft_jax.config.binding import bind
from rlft_jax.config.derived import drawing
from rlft_jax.data.pipeline import Batches, batches
from rlft_jax.data.problems import encode_problem
from rlft_jax.data.reward_rows import texts_of
from rlft_jax.models.qwen2 import Dtype
from rlft_jax.objectives import rloo
from rlft_jax.rollout import Engine, Rollout, Score
from rlft_jax.runs import loading
from rlft_jax.runs.inference import policy_score
from rlft_jax.runs.plan import Plan
from rlft_jax.runs.reference_cache import ScoredPair
from rlft_jax.sampling.sampler import Sampler
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.sampling.transcripts import Completion
from rlft_jax.selection import SELECTIONS
from rlft_jax.training.feeding import Padded
from rlft_jax.training.loop import Draw, Source
from rlft_jax.training.sharding import local_copy, local_mesh
from rlft_jax.training.step import Params


class Dataset:
    """A source that deals out what others wrote."""

    def __init__(self, items: Batches, collated: Callable[[Sequence[Any]], Padded]):
        self._items, self._collated = items, collated

    def next(self, params: Params, step: int) -> Draw:
        """The next items, whatever the policy does."""
        return Draw(self._collated(next(self._items)), {})

    def state(self) -> dict[str, Any]:
        """Position among the items."""
        return self._items.get_state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on exactly where `state` was taken."""
        self._items.set_state(state)


def make_source(
    plan: Plan, frozen: Params, reference: Params | None, engine: Engine | None = None
) -> Source:
    """The source that a run's config describes, at its beginning.

    Args:
        engine: What rollouts are done with, in the place of `make_engine`'s.
    """
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
        return Dataset(stream, collation(plan, reference))
    engine = engine or make_engine(plan, frozen, reference)
    return bind(Rollout, config["rollout"])(stream, engine, jax.process_index(), processes)


def collation(plan: Plan, reference: Params | None) -> Callable[[Sequence[Any]], Padded]:
    """A function from items of a run's data to what is packed for a step."""
    if plan.config["objective"]["name"] == "reward_model":
        return texts_of
    if plan.config["objective"]["name"] == "sft":
        return lambda examples: Responses.of([[example] for example in examples])
    score = reference_score(plan, reference)
    return lambda pairs: scored_pairs(pairs, score)


def scored_pairs(pairs: Sequence[Any], score: Score | None) -> Responses:
    """Pairs with the log-probabilities that the reference gave them before, or gives them now."""
    if isinstance(pairs[0], ScoredPair):
        responses = Responses.of([pair.examples for pair in pairs])
        found = np.zeros(responses.tokens.shape, np.float32)
        for row, pair in zip(found, pairs):
            for place, logprobs in zip(row, pair.reference_logprobs):
                place[: len(logprobs)] = logprobs
        return responses._replace(reference_logprobs=found)
    responses = Responses.of(pairs)
    if score is None:
        return responses
    return responses._replace(reference_logprobs=score({}, responses))


def reference_score(plan: Plan, reference: Params | None) -> Score | None:
    """A function that scores responses under the reference; None where there is none."""
    if reference is None:
        return None
    score = policy_score(plan.base.graph, {}, plan.feed, plan.temperature)
    return lambda _, responses: score(reference, responses)


def make_engine(plan: Plan, frozen: Params, reference: Params | None) -> Engine:
    """What rollouts are done with."""
    config, tokenizer = plan.config, plan.policy.tokenizer
    assert plan.reward is not None
    settings = SamplingSettings(stop_ids=plan.policy.stop_ids, **drawing(config))
    sample = policy_sampler(plan, frozen, settings, config["sampling"]["dtype"])
    advantages, selection = config["advantages"], config["selection"]
    old_score = None
    if plan.rescores:
        old_score = policy_score(plan.structure.graph, frozen, plan.feed, plan.temperature)
    return Engine(
        encode=lambda problem: encode_problem(problem, tokenizer),
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        sample=lambda params, prompts, samples, numbers: sample(
            params, prompts, samples=samples, seed=config["seed"], requests=numbers
        ),
        reward=plan.reward,
        advantages=None if advantages is None else bind(rloo.advantages, advantages),
        select=None if selection is None else bind(SELECTIONS[selection["name"]], selection),
        old_score=old_score,
        reference_score=reference_score(plan, reference),
    )


def policy_sampler(
    plan: Plan, frozen: Params, settings: SamplingSettings, dtype: Dtype | None = None
):
    """A function that samples by the trainable parameters, on all devices of this process.

    Args:
        dtype: What to compute in, from a copy of the parameters; as training does if None.
    """
    structure = plan.structure
    sampler = Sampler(
        structure.graph if dtype is None else structure.computing_in(dtype),
        settings,
        decode=plan.origin.tokenizer.decode,
        mesh=local_mesh(plan.mesh),
    )

    def sample(params: Params, prompts: list[list[int]], **how: Any) -> list[list[Completion]]:
        whole = loading.merged_trees(params, frozen)
        return sampler(local_copy(whole, plan.mesh), prompts, **how)

    return sample
