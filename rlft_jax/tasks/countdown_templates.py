"""How a Countdown problem is posed, and how a worked derivation of it is written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlft_jax.tasks.arithmetic import Expression, Operation, postorder, value
from rlft_jax.tasks.problem import Message

OPEN, CLOSE = "<answer>", "</answer>"


@dataclass(frozen=True)
class Template:
    """One way to pose problems, with the completions that go with it.

    Attributes:
        prompt: Poses the problem of some numbers and a target.
        derivation: Writes a completion that works towards an expression.
        adapt: Makes a completion of a text with reasoning and an answer that was written for
            another prompt; None if the template has a form of its own.
    """

    prompt: Callable[[Sequence[int], int], str | list[Message]]
    derivation: Callable[[Expression], str]
    adapt: Callable[[str], str] | None = None


def answer_text(text: str) -> str | None:
    """What the last `<answer>` that is closed holds; None if there is none."""
    start = text.rfind(OPEN, 0, max(text.rfind(CLOSE), 0))
    if start < 0:
        return None
    return text[start + len(OPEN) : text.find(CLOSE, start)]


def _question(nums: Sequence[int], target: int) -> str:
    return (
        f"Using the numbers {list(nums)}, create an equation that equals {target}. You can use"
        " basic arithmetic operations (+, -, *, /) and each number can only be used once."
        " Show your work in <think> </think> tags. And return the final answer in"
        " <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )


def _tinyzero_prompt(nums: Sequence[int], target: int) -> str:
    """TinyZero's prompt for base models, letter for letter; it opens the reasoning itself."""
    return (
        "A conversation between User and Assistant. The user asks a question, and the Assistant"
        " solves it. The assistant first thinks about the reasoning process in the mind and then"
        f" provides the user with the answer.\nUser: {_question(nums, target)}\n"
        "Assistant: Let me solve this step by step.\n<think>"
    )


def _chat_prompt(nums: Sequence[int], target: int) -> list[Message]:
    return [{"role": "user", "content": _question(nums, target)}]


def _steps(expression: Expression) -> Iterator[str]:
    """The operations in the order they are carried out: "19 + 35 = 54"."""
    for part in postorder(expression):
        if isinstance(part, Operation):
            left, right = value(part.left), value(part.right)
            yield f"{left} {part.symbol} {right} = {value(part)}"


def _derivation(expression: Expression) -> str:
    """Steps, reasoning closed, answer: the form of the published derivations."""
    steps = "".join(f"{step}\n" for step in _steps(expression))
    final = f"Therefore, the final equation is {expression}"
    return f"{steps}{final} </think>\n{OPEN} {expression} {CLOSE}"


def _closed(text: str) -> str:
    """The text, its reasoning without the tag that the prompt has and closed before the answer."""
    text = text.strip().removeprefix("<think>")
    if "</think>" in text:
        return text
    start = text.rfind(OPEN)
    return f"{text[:start].rstrip()} </think>\n{text[start:]}"


def _plain_prompt(nums: Sequence[int], target: int) -> str:
    """One short line, for models of a few hundred thousand parameters."""
    return f"{','.join(map(str, nums))}={target}:"


def _plain_derivation(expression: Expression) -> str:
    """The completion of `_plain_prompt`: "3+5=8;8+8=16;<answer>(3+5)+8</answer>"."""
    text = "".join(f"{step};" for step in _steps(expression)) + f"{OPEN}{expression}{CLOSE}"
    return text.replace(" ", "")


TEMPLATES: dict[str, Template] = {
    "tinyzero": Template(_tinyzero_prompt, _derivation, _closed),
    "chat": Template(
        _chat_prompt,
        lambda expression: f"<think>\n{_derivation(expression)}",
        lambda text: f"<think>\n{_closed(text).lstrip()}",
    ),
    "plain": Template(_plain_prompt, _plain_derivation),
}
