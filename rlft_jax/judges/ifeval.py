"""IFEval's four figures of a model's completions, each with its interval, and a table of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlft_jax import progress
from rlft_jax.evaluate import with_interval
from rlft_jax.statistics import estimate
from rlft_jax.tasks import ifeval
from rlft_jax.tasks.ifeval import Verdict
from rlft_jax.tasks.problem import Problem
from rlft_jax.training.run_directory import versions

Result = dict[str, Any]

INTERVALS = "95%, percentile bootstrap over prompts, 10,000 resamples"
WAYS = ("strict", "loose")


def evaluate(
    problems: Sequence[Problem],
    responses: Sequence[str],
    *,
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
) -> Result:
    """Checks one response to every problem; returns figures ready for JSON.

    Zhou et al. (2023, arXiv:2311.07911), section 3: `prompt_level` is the share of prompts whose
    instructions are all followed, `instruction_level` the share of instructions that are. By
    `instructions` there is the share of each kind, and in `verdicts` every single one.

    Args:
        problems: Of the task ifeval.
        responses: Without their prompts.
        seed: Of the bootstrap.
        spec: What the caller knows: model, data, template, temperature and so on.

    Raises:
        ValueError: If there are no problems, or not as many responses.
    """
    if not problems or len(problems) != len(responses):
        raise ValueError(
            f"{len(responses)} responses do not go with {len(problems)} problems. Give one response"
            " to each, and at least one problem."
        )
    verdicts = [ifeval.judged(*both) for both in zip(problems, responses, strict=True)]
    measured = {"task": "ifeval", "prompts": len(problems), "seed": seed}
    return {
        "spec": {**(spec or {}), **measured, "intervals": INTERVALS, "versions": versions()},
        **figures(verdicts, seed=seed),
        "instructions": by_kind(problems, verdicts),
        "verdicts": [
            {
                "key": problem.columns.get("key"),
                "instruction_id_list": list(problem.columns["instruction_id_list"]),
                **{way: list(getattr(verdict, way)) for way in WAYS},
            }
            for problem, verdict in zip(problems, verdicts, strict=True)
        ],
    }


def figures(verdicts: Sequence[Verdict], *, seed: int) -> Result:
    """The four accuracies: prompt and instruction level, strict and loose."""
    counts = np.array([len(verdict.strict) for verdict in verdicts], float)
    prompt_level, instruction_level = {}, {}
    for way in WAYS:
        followed = np.array([sum(getattr(verdict, way)) for verdict in verdicts], float)
        all_followed = (followed == counts).astype(float)
        prompt_level[way] = estimate(all_followed, seed=seed)._asdict()
        # Prompts are drawn, not instructions: those of one prompt share a response.
        shares = estimate(followed / counts, seed=seed, weights=counts)
        instruction_level[way] = shares._asdict()
    return {"prompt_level": prompt_level, "instruction_level": instruction_level}


def by_kind(problems: Sequence[Problem], verdicts: Sequence[Verdict]) -> Result:
    """How many instructions there are of each kind, and the shares that are followed."""
    of_kind: Counter[str] = Counter()
    followed: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    for problem, verdict in zip(problems, verdicts, strict=True):
        kinds = problem.columns["instruction_id_list"]
        of_kind.update(kinds)
        for way in WAYS:
            followed[way].update(dict.fromkeys(kinds, 0))
            for kind, is_followed in zip(kinds, getattr(verdict, way), strict=True):
                followed[way][kind] += is_followed
    return {
        kind: {"count": count, **{way: followed[way][kind] / count for way in WAYS}}
        for kind, count in sorted(of_kind.items())
    }


def show(result: Result) -> None:
    """Prints the four accuracies, those of each kind, and what was measured."""
    spec = result["spec"]
    levels = {"prompts": "prompt_level", "instructions": "instruction_level"}
    progress.table(
        f"IFEval: {spec.get('model', 'responses')}",
        ["share followed", *WAYS],
        [
            [name, *(with_interval(result[level][way]) for way in WAYS)]
            for name, level in levels.items()
        ],
        caption=f"{spec['prompts']} prompts. In brackets: {spec['intervals']}.",
    )
    progress.table(
        "Kinds of instructions",
        ["", "count", *WAYS],
        [
            [kind, str(of["count"]), *(f"{of[way]:.3f}" for way in WAYS)]
            for kind, of in result["instructions"].items()
        ],
    )
