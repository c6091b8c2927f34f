"""What commands ask of a policy."""

from collections.abc import Sequence

from rlft_jax.config.settings import settings_of
from rlft_jax.data.problems import encode_problem
from rlft_jax.runs.loading import Origin, read_config
from rlft_jax.tasks import TASKS
from rlft_jax.tasks.problem import Problem


def check_seed(seed: int) -> None:
    """Refuses what cannot seed random keys."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed={seed} must be from 0 to {2**32 - 1}.")


def check_samples(samples: int, *, temperature: float) -> None:
    """Refuses numbers of samples that cannot be drawn, or would all be the same."""
    if samples < 1:
        raise ValueError(f"--samples={samples} measures nothing. Set 1 or more.")
    if temperature == 0 and samples > 1:
        raise ValueError(
            f"--samples={samples} at --temperature=0 would all be the same. Set --samples=1, or"
            " raise the temperature."
        )


def encode_problems(
    problems: Sequence[Problem], origin: Origin, *, max_new_tokens: int
) -> list[list[int]]:
    """Returns the ids of all prompts, or refuses those that leave no room for a completion."""
    prompts = [encode_problem(problem, origin.tokenizer) for problem in problems]
    positions = origin.architecture.max_positions
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    if len(prompts[longest]) + max_new_tokens > positions:
        raise ValueError(
            f"Problem {longest}, counted from 0, has {len(prompts[longest])} tokens of prompt, and"
            f" with --max_new_tokens={max_new_tokens} that exceeds the {positions} positions of"
            f" {origin.model}. Lower --max_new_tokens, or take the problem out."
        )
    return prompts


def template_of(origin: Origin, task: str) -> str:
    """Returns how to pose a task's problems to a model: as it was trained, or the task's way.

    Only a run of the same task knows how the model was trained.
    """
    if origin.run is not None:
        data = read_config(origin.run).get("data") or {}
        if data.get("task") == task and data.get("template"):
            return data["template"]
    return settings_of(TASKS[task].problem)["template"].default
