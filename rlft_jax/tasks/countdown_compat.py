"""TinyZero's Countdown scorer, loopholes included, without its `eval`.

Scores of other projects were measured with it, so it is kept as it is: `2**3`, `7//2` and
`1.5` pass, only the last line of a reply counts, and without an `Assistant:` before the reply
everything is worth 0. Train with the strict scorer of `countdown` unless you compare with them.

Source: TinyZero, verl/utils/reward_score/countdown.py.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rlft_jax.tasks.arithmetic import NotArithmeticError, fold
from rlft_jax.tasks.problem import Problem

MARKERS = ("Assistant:", "<|im_start|>assistant")

# Bounds that keep the score of every reply that the original can score in reasonable time: past
# them it hangs (`9**9**9`) or its parser gives up.
_MAX_BITS = 1 << 16
_MAX_TOKENS = 3000  # about where CPython's compiler gives up
_MAX_BRACKETS = 200  # CPython's own limit

_ALLOWED = re.compile(r"[\d+\-*/().\s]+")
_TOKEN = re.compile(r"[ \t\f]*(?:(\d+\.\d*|\.\d+|\d+)|(\*\*|//|[-+*/()])|(\r))", re.ASCII)

Value = Any  # an int, float or complex: `typing` has no name for Python's numbers together


def score(solution_str: str, nums: Sequence[int], target: int | float) -> float:
    """What TinyZero's `compute_score` returns: 1, 0.1 for a wrong answer, 0 for none.

    `solution_str` is prompt and response together. Two differences, both on the safe side:
    numbers past 65,536 bits and expressions past 3,000 tokens score 0.1 unevaluated.
    """
    equation = _answer(solution_str)
    if equation is None:
        return 0.0
    return 1.0 if _uses(equation, nums) and _equals(equation, target) else 0.1


def score_response(problem: Problem, response: str) -> float:
    """`score` of a response to a problem, put behind its prompt as the original saw it.

    Raises:
        ValueError: If the prompt is text without an `Assistant:` to find the response by.
    """
    columns = problem.columns
    prompt = problem.prompt if isinstance(problem.prompt, str) else f"{MARKERS[1]}\n"
    if not any(marker in prompt for marker in MARKERS):
        raise ValueError(
            f"The compat scorer scores 0 whatever the response to a prompt without {MARKERS[0]!r},"
            f" as in {prompt[-80:]!r}. Use the strict scorer, or the tinyzero or chat template."
        )
    return score(prompt + response, columns["nums"], columns["target"])


def _answer(solution: str) -> str | None:
    """The last answer on the last line of the reply."""
    marker = next((marker for marker in MARKERS if marker in solution), None)
    if marker is None:
        return None
    line = solution.split(marker, 1)[1].rsplit("\n", 1)[-1]
    answer, start = None, line.find("<answer>")
    while start >= 0 and (end := line.find("</answer>", start)) >= 0:
        answer = line[start + len("<answer>") : end]
        start = line.find("<answer>", end)
    return None if answer is None else answer.strip()


def _uses(equation: str, nums: Sequence[int]) -> bool:
    """Whether the runs of digits are the numbers given, each once."""
    runs = re.findall(r"\d+", equation)
    try:
        return sorted(map(int, runs)) == sorted(nums)
    except ValueError:  # more digits than int() reads
        return False


def _equals(equation: str, target: int | float) -> bool:
    """Whether Python would evaluate the equation to the target, to 1e-5."""
    if not _ALLOWED.fullmatch(equation):
        return False
    try:
        result = fold(
            _tokens(equation), number=_number, sign=_sign, operation=_operation, depth=_MAX_TOKENS
        )
        return abs(result - target) < 1e-5
    except (NotArithmeticError, ArithmeticError, TypeError):  # complex // int is a TypeError
        return False


def _tokens(equation: str) -> Iterator[str]:
    """Python's own tokens, with its rules for brackets and line breaks."""
    position = count = brackets = 0
    while position < len(equation):
        token = _TOKEN.match(equation, position)
        if token is None:
            raise NotArithmeticError(f"{equation[position]!r} is no token")
        number, symbol, line_break = token.groups()
        brackets += (symbol == "(") - (symbol == ")")
        count += 1
        if count > _MAX_TOKENS or brackets > _MAX_BRACKETS or (line_break and not brackets):
            raise NotArithmeticError("too long, too deep, or broken over lines")
        if not line_break:
            yield number or symbol
        position = token.end()


def _number(digits: str) -> Value:
    if "." in digits:
        return float(digits)
    if len(digits) > 1 and digits[0] == "0" and digits.strip("0"):
        raise NotArithmeticError("Python has no whole numbers with leading zeros")
    return int(digits)


def _sign(symbol: str, operand: Value) -> Value:
    return -operand if symbol == "-" else +operand


def _operation(left: Value, symbol: str, right: Value) -> Value:
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return _bounded(left * right)
        case "/":
            return left / right
        case "//":
            return left // right
        case _:
            return _power(left, right)


def _power(base: Value, exponent: Value) -> Value:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and base.bit_length() * exponent > _MAX_BITS:
        raise NotArithmeticError(f"a power of more than {_MAX_BITS} bits")
    return base**exponent


def _bounded(value: Value) -> Value:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise NotArithmeticError(f"a product of more than {_MAX_BITS} bits")
    return value
