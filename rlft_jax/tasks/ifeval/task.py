"""IFEval as a task: problems to pose, and grades that serve as rewards."""

from collections.abc import Callable
from typing import NoReturn

from rlft_jax.tasks.ifeval.instructions import instructions_of
from rlft_jax.tasks.ifeval.verdicts import Verdict, verdict
from rlft_jax.tasks.problem import Grade, Message, Problem, Row, lookup


def _chat_prompt(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]


def _plain_prompt(prompt: str) -> str:
    return f"{prompt}\n\n"


TEMPLATES: dict[str, Callable[[str], str | list[Message]]] = {
    "chat": _chat_prompt,
    "plain": _plain_prompt,
}


def problem(row: Row, *, template: str = "chat") -> Problem:
    """Poses a row's prompt; its other columns are kept.

    Raises:
        ValueError: If the row's instructions cannot be checked, or there is no such template.
    """
    instructions_of(row)
    return Problem(lookup("ifeval template", template, TEMPLATES)(row["prompt"]), dict(row))


def demonstration(row: Row, *, template: str = "chat") -> NoReturn:
    """Refuses: the data set has prompts and checks, but no responses to imitate."""
    raise ValueError(
        "An ifeval row holds no response to imitate, so there is nothing to fine-tune on."
        " Choose chat data for that, and ifeval to evaluate or as a reward."
    )


def grade(problem: Problem, response: str) -> Grade:
    """Grades a response: correct if all instructions are followed, strictly.

    The score is the share of them that is. There is no answer to vote with.
    """
    followed = judged(problem, response).strict
    share = sum(followed) / len(followed)
    return Grade(all(followed), bool(response.strip()), share, answer=None)


def group(problem: Problem) -> str:
    """How many instructions the prompt has, as "2 instructions"."""
    instructions = len(problem.columns["instruction_id_list"])
    return "1 instruction" if instructions == 1 else f"{instructions} instructions"


def judged(problem: Problem, response: str) -> Verdict:
    """The verdict on each instruction of a problem."""
    return verdict(instructions_of(problem.columns), response)


def _strict(problem: Problem, response: str) -> float:
    return grade(problem, response).score


def _loose(problem: Problem, response: str) -> float:
    followed = judged(problem, response).loose
    return sum(followed) / len(followed)


def _all(problem: Problem, response: str) -> float:
    return float(grade(problem, response).correct)


# Shares of the instructions that are followed, or 1 for all of them and else 0.
SCORERS: dict[str, Callable[[Problem, str], float]] = {
    "strict": _strict,
    "loose": _loose,
    "all": _all,
}
