"""GSM8K: grade-school word problems with a numeric answer (Cobbe et al., arXiv:2110.14168).

Rows hold `question` and `answer`, a worked solution that ends in a line like "#### 72".
"""

import re
from collections import deque
from collections.abc import Callable
from fractions import Fraction

from rlft_jax.tasks.problem import Grade, Message, Problem, Row, lookup, require_columns

_MAX_DIGITS = 40  # of one number; a word problem has no longer answer
_MAX_BOXED = 200  # characters

# A number as people write it: 1,234.50 or -$3 or 2/3. The minus of "10-5" subtracts: it is no
# sign. Atomic groups keep a number whole when what follows it does not fit.
_NUMBER = r"""
    (?P<sign> (?<![\w)]) [-−]? (?: \\?[$€£] [-−]? )? )?
    (?P<digits> (?> (?: \d{1,3} (?:,\d{3})+ (?!\d) | \d+ ) (?: \.\d+ )? | \.\d+ ) )
    (?> / (?P<divisor> \d+ ) )?
"""
# "#### 1. Heading" is no answer, and neither is the 5 in "the answer is 5 + 3 = 8".
_MARK = r"""
    (?: \#{4} [\s*]{0,8} (?! \d+ [.):] \s{0,3} [a-z] ) | answer (?:[ ]is)? [\s:=*]{0,8} )
"""
_ENDS = r"(?! \s{0,3} [-+*/=×÷] \s{0,3} [\d$(] )"
_FLAGS = re.VERBOSE | re.ASCII | re.IGNORECASE

_ANY = re.compile(_NUMBER, _FLAGS)
_MARKED = re.compile(_MARK + _NUMBER + _ENDS, _FLAGS)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s?\{(\d+)\}\s?\{(\d+)\}", re.ASCII)
_LATEX_NOISE = re.compile(
    r"\\(?:text|mathrm|mbox)\s?\{[^{}]*\}|\\[,!;]|(?<=\d)\{(?=,\})|(?<=\{,)\}"
)
_ANNOTATION = re.compile(r"<<[^<>]*>>")


def _chat_prompt(question: str) -> list[Message]:
    ask = 'Let\'s think step by step and output the final answer after "####".'
    return [{"role": "user", "content": f"{question} {ask}"}]


def _plain_prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:\n"


TEMPLATES: dict[str, Callable[[str], str | list[Message]]] = {
    "chat": _chat_prompt,
    "plain": _plain_prompt,
}


def problem(row: Row, *, template: str = "chat") -> Problem:
    """Poses a row's question; its other columns are kept.

    Raises:
        ValueError: If a column is missing, its `answer` ends in no number, or there is no such
            template.
    """
    require_columns(row, ("question", "answer"), task="gsm8k")
    if final_number(row["answer"]) is None:
        raise ValueError(
            f"The answer of a gsm8k row has no number to compare with: {row['answer'][-80:]!r}."
            ' End it in a line like "#### 72".'
        )
    prompt = lookup("gsm8k template", template, TEMPLATES)(row["question"])
    return Problem(prompt, dict(row))


def demonstration(row: Row, *, template: str = "chat") -> str:
    """The row's own solution, as a completion of either template's prompt.

    Without its calculator annotations ("48/2 = <<48/2=24>>24" becomes "48/2 = 24"): nothing
    fills them in while we sample, so a model that learned them would only write everything twice.
    """
    problem(row, template=template)
    return _ANNOTATION.sub("", row["answer"])


def grade(problem: Problem, response: str) -> Grade:
    """Grades the final number of a response: score 1 if it equals the row's exactly, else 0.

    Format earns nothing by itself, since almost any text ends in some number.
    """
    answer = final_number(response)
    correct = answer is not None and answer == final_number(problem.columns["answer"])
    canonical = None if answer is None else str(answer)
    return Grade(correct, answer is not None, float(correct), canonical)


def group(problem: Problem) -> str:
    """The problem's kind by the calculations of its solution, as "3 steps"; "all" if unknown."""
    steps = len(_ANNOTATION.findall(problem.columns["answer"]))
    return "all" if not steps else "1 step" if steps == 1 else f"{steps} steps"


def final_number(text: str) -> Fraction | None:
    r"""The number that a text gives as its final answer, exactly; None if there is none.

    That is what follows the last "####", "answer is", "answer:" or stands in the last \boxed{};
    in a text without any, its last number. Thousands separators, currency and units are
    dropped ("50%" is 50), "3/4" is a fraction.

    >>> final_number("so she pays $1,050.50 in all.\n#### $1,050.50")
    Fraction(2101, 2)
    """
    text = _LATEX_FRACTION.sub(r"\1/\2", _LATEX_NOISE.sub("", text)).replace("{,}", ",")
    marked, boxed = _last(_MARKED, text), _last(_BOXED, text)
    if boxed is not None and (marked is None or boxed.start() > marked.start()):
        return _boxed_number(text[boxed.end() : boxed.end() + _MAX_BOXED])
    number = marked or _last(_ANY, text)
    return None if number is None else _exact(number)


def _boxed_number(text: str) -> Fraction | None:
    """The one number of what a box holds, given from behind its opening brace."""
    depth = 1
    for end, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            numbers = list(_ANY.finditer(text[:end].rpartition("=")[2]))
            return _exact(numbers[0]) if len(numbers) == 1 else None
    return None


def _exact(number: re.Match[str]) -> Fraction | None:
    if len(number[0]) > _MAX_DIGITS:
        return None
    divisor = int(number["divisor"] or 1)
    if divisor == 0:
        return None
    magnitude = Fraction(number["digits"].replace(",", "")) / divisor
    return -magnitude if re.search("[-−]", number["sign"] or "") else magnitude


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _strict(problem: Problem, response: str) -> float:
    return grade(problem, response).score


SCORERS: dict[str, Callable[[Problem, str], float]] = {"strict": _strict}
