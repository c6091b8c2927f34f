"""Countdown: reach a target from a few numbers with + - * /, each number used exactly once.

The task of TinyZero (https://github.com/Jiayi-Pan/TinyZero). Its rows hold `nums` and
`target`. Its scorer, loopholes included, is `countdown_compat`; the one here is strict.
"""

import operator
from collections.abc import Callable
from fractions import Fraction

from rlft_jax.tasks import arithmetic, countdown_compat
from rlft_jax.tasks.arithmetic import Expression, NotArithmeticError
from rlft_jax.tasks.countdown_generator import generate
from rlft_jax.tasks.countdown_solver import solve
from rlft_jax.tasks.countdown_templates import CLOSE, OPEN, TEMPLATES, answer_text
from rlft_jax.tasks.problem import Grade, Problem, Row, lookup, require_columns

__all__ = [
    "CLOSE",
    "OPEN",
    "SCORERS",
    "TEMPLATES",
    "demonstration",
    "generate",
    "grade",
    "group",
    "problem",
    "solve",
]

FORMAT_SCORE = 0.1  # TinyZero's, for an answer that can be read but is wrong


def problem(row: Row, *, template: str = "tinyzero") -> Problem:
    """Poses a row's problem; its other columns are kept.

    Raises:
        ValueError: If `nums` is not a list of non-negative whole numbers, or `target` not one
            whole number, or there is no such template.
    """
    require_columns(row, ("nums", "target"), task="countdown")
    try:
        nums = [operator.index(number) for number in row["nums"]]
        target = operator.index(row["target"])
    except TypeError as error:
        raise ValueError(
            f"Countdown needs whole numbers, but the row has nums = {row['nums']!r} and"
            f" target = {row['target']!r}. Store nums as a list of integers, target as one."
        ) from error
    if not nums or min(nums) < 0:
        raise ValueError(
            f"Countdown needs at least one number and none below 0, but nums = {nums}."
            " Remove or correct the row."
        )
    prompt = lookup("countdown template", template, TEMPLATES).prompt(nums, target)
    return Problem(prompt, {**row, "nums": nums, "target": target})


def demonstration(row: Row, *, template: str = "tinyzero") -> str:
    """A worked derivation that solves the row's problem, as a completion of its prompt.

    Taken from the row's `answer` or `response` column where that holds an `<answer>`, otherwise
    written from the solver. The "plain" template always writes its own, about the expression
    that the row's text answers with.

    Raises:
        ValueError: If the row's own derivation is wrong, or it has none and no solution exists.
    """
    written_for = lookup("countdown template", template, TEMPLATES)
    posed = problem(row, template=template)
    columns = (row.get(column) for column in ("answer", "response"))
    text = next((text for text in columns if isinstance(text, str) and answer_text(text)), None)
    if text is not None and not grade(posed, text).correct:
        raise ValueError(
            f"The row's derivation answers {answer_text(text)!r}, which does not make"
            f" {row['target']} of {row['nums']}. Correct the row, or remove it."
        )
    if text is not None and written_for.adapt is not None:
        return written_for.adapt(text)
    nums, target = posed.columns["nums"], posed.columns["target"]
    expression = solve(nums, target) if text is None else _parsed_answer(text)
    if expression is None:
        raise ValueError(
            f"No expression of {nums} makes {target}, so there is nothing to demonstrate."
            " Remove the row."
        )
    return written_for.derivation(expression)


def grade(problem: Problem, response: str) -> Grade:
    """Grades the last closed `<answer>` of a response, with exact rational arithmetic.

    Correct (score 1) is an expression of + - * /, unary minus and brackets that uses every
    number exactly once and equals the target exactly. An answer that can be read but is wrong,
    that divides by zero included, scores 0.1. One that cannot be read (empty, an equation,
    words, powers, anything past the bounds of `arithmetic`) scores 0, as does none.
    """
    expression = _parsed_answer(response)
    if expression is None:
        return Grade(correct=False, formatted=False, score=0.0)
    correct = sorted(arithmetic.leaves(expression)) == sorted(problem.columns["nums"])
    correct = correct and arithmetic.value(expression) == Fraction(problem.columns["target"])
    score = 1.0 if correct else FORMAT_SCORE
    return Grade(correct, True, score, arithmetic.canonical(expression))


def group(problem: Problem) -> str:
    """The problem's kind by how many numbers it has, as "3 numbers"."""
    return f"{len(problem.columns['nums'])} numbers"


def _parsed_answer(text: str) -> Expression | None:
    answer = answer_text(text)
    try:
        return None if answer is None else arithmetic.parse(answer)
    except NotArithmeticError:
        return None


def _strict(problem: Problem, response: str) -> float:
    return grade(problem, response).score


SCORERS: dict[str, Callable[[Problem, str], float]] = {
    "strict": _strict,
    "compat": countdown_compat.score_response,
}
