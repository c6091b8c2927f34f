"""Held-out loss, task accuracy and rewards, measured while a run trains."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rlft_jax.config.derived import answering, answers
from rlft_jax.config.settings import settings_of
from rlft_jax.data.problems import Problems, encode_problem
from rlft_jax.metrics import Mean, Metrics, merged
from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.runs.plan import Plan
from rlft_jax.runs.sources import collation, policy_sampler
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.tasks import TASKS
from rlft_jax.tasks.problem import Problem
from rlft_jax.training.processes import over_processes
from rlft_jax.training.step import Params, score_step

Measure = Callable[[Params], Metrics]


def measure(plan: Plan, frozen: Params, reference: Params | None) -> Measure:
    """A function that measures trainable parameters on a run's held-out data."""
    section = plan.config["evaluation"]
    parts: list[Measure] = []
    if not plan.is_rl:
        parts.append(loss(plan, frozen, reference, plan.data.heldout[: section["limit"]]))
    if answers(plan.config):
        posed = plan.data.heldout if plan.is_rl else heldout_problems(plan)
        parts.append(responses(plan, frozen, posed[: section["limit"]]))

    def both(params: Params) -> Metrics:
        return {name: value for part in parts for name, value in part(params).items()}

    return both


def loss(plan: Plan, frozen: Params, reference: Params | None, items: Sequence[Any]) -> Measure:
    """A function that measures the objective on items that others wrote."""
    score = on_mesh(plan.mesh, score_step)
    compiled = jax.jit(functools.partial(score, graph=plan.structure.graph, score=plan.objective))
    collated = collation(plan, reference)
    prompts = plan.config["batch"]["prompts"] // jax.process_count()
    # Every process takes part in every batch, so all have equally many of one size.
    whole = list(items[jax.process_index() :: jax.process_count()])
    rounds = -(-len(items) // (prompts * jax.process_count()))
    # An item without its tokens fills up a batch, and counts for nothing.
    empty = jax.tree.map(lambda x: x[:0] if isinstance(x, np.ndarray) else x, items[0])
    whole += [empty] * (rounds * prompts - len(whole))

    def measured(params: Params) -> Metrics:
        found = []
        for start in range(0, len(whole), prompts):
            batch = plan.feed(collated(whole[start : start + prompts]))
            found.append(merged(jax.device_get(compiled(params, frozen, batch))))
        total = merged(jax.tree.map(lambda *parts: np.stack(parts), *found))
        return {f"eval_{name}": value for name, value in total.items()}

    return measured


def responses(plan: Plan, frozen: Params, posed: Sequence[Problem]) -> Measure:
    """A function that measures responses to problems: how many are right, end, and earn what."""
    tokenizer = plan.policy.tokenizer
    settings = SamplingSettings(stop_ids=plan.policy.stop_ids, **answering(plan.config))
    sample = policy_sampler(plan, frozen, settings)
    numbers = range(jax.process_index(), len(posed), jax.process_count())
    mine = [posed[i] for i in numbers]
    prompts = [encode_problem(problem, tokenizer) for problem in mine]
    task, samples = plan.config["data"]["task"], answers(plan.config)

    def measured(params: Params) -> Metrics:
        groups = sample(
            params, prompts, samples=samples, seed=plan.config["seed"], requests=list(numbers)
        )
        completions = [completion for group in groups for completion in group]
        ids = [completion.tokens.tolist() for completion in completions]
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in ids]
        answered = [problem for problem, group in zip(mine, groups) for _ in group]
        values: dict[str, Sequence[Any] | np.ndarray] = {
            "truncated": [not completion.is_finished for completion in completions],
            "mean_length": list(map(len, ids)),
        }
        if task is not None:
            grades = [TASKS[task].grade(*both) for both in zip(answered, texts)]
            values["accuracy"] = [grade.correct for grade in grades]
            values["formatted"] = [grade.formatted for grade in grades]
            values["score"] = [grade.score for grade in grades]
        if plan.reward is not None:
            values["reward"], parts = plan.reward(answered, texts)
            values |= {f"rewards/{name}": part for name, part in parts.items()}
        return over_processes({f"eval_{name}": _mean(value) for name, value in values.items()})

    return measured


def heldout_problems(plan: Plan) -> Sequence[Problem]:
    """The problems behind the held-out demonstrations: the same rows, posed to be solved."""
    config = plan.config
    known = {k: v for k, v in config["data"].items() if k in settings_of(Problems)}
    most = plan.policy.architecture.max_positions - config["evaluation"]["max_new_tokens"]
    room = min(config["batch"]["tokens"], most)
    return Problems(**known).read(plan.policy.tokenizer, room, config["seed"]).heldout


def _mean(values: Sequence[Any] | np.ndarray) -> Mean:
    return Mean(np.float32(np.sum(values)), np.float32(len(values)))  # pyright: ignore
