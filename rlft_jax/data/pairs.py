"""A row with two responses to a prompt, in the formats of TRL and of UltraFeedback."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from rlft_jax.data.bad_rows import columns_of
from rlft_jax.tasks.problem import Message, Row

Side = str | list[Message]

FORMATS = (
    "`chosen` and `rejected`, both text or both chats, with their `prompt` (text, or a chat) beside"
    " them or at their beginning"
)


class Pair(NamedTuple):
    """Two responses to a prompt.

    Attributes:
        prompt: Text that both responses continue, or a chat that both answer.
        chosen: The better response without the prompt: text after text, turns after a chat.
        rejected: The worse one, likewise.
        row: All columns.
    """

    prompt: Side
    chosen: Side
    rejected: Side
    row: Row


def pair_of(row: Row) -> Pair:
    """Takes a row apart into a prompt and two responses.

    A prompt of its own may be text or a chat; a chat may also be called `messages`. Without one, it
    is what `chosen` and `rejected` have in common at their beginning. Whole chats in `chosen` and
    `rejected` bring their prompt even where its text stands beside them, as in UltraFeedback.

    Raises:
        ValueError: If there are no two responses to one prompt in the row.

    >>> pair_of({"chosen": "2 + 2 = 4", "rejected": "2 + 2 = 5"})[:3]
    ('2 + 2 =', ' 4', ' 5')
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    prompt = _prompt(row)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            return Pair(*_parted_texts(chosen, rejected), row)
        if isinstance(prompt, str):
            return Pair(prompt, chosen, rejected, row)
        return Pair(prompt, _answer(chosen), _answer(rejected), row)
    if not (is_chat(chosen) and is_chat(rejected)):
        raise ValueError(f"The columns {columns_of(row)} are no pair. Needed are {FORMATS}.")
    if not (_is_answer(chosen) and _is_answer(rejected)):
        return Pair(*_parted_chats(list(chosen), list(rejected)), row)
    if prompt is None:
        raise ValueError(
            "`chosen` and `rejected` start with the assistant's answer, and no column holds the"
            " chat before it. Add a `prompt`."
        )
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return Pair(prompt, list(chosen), list(rejected), row)


def prompt_key(prompt: str | Sequence[Message]) -> str:
    """What a prompt starts from; rows of one key belong on one side of a split.

    It is a text, or a chat up to its first question: a longer chat can hold an answer to a shorter
    one. A chat of one question is what its text is.
    """
    if isinstance(prompt, str):
        return prompt.strip()
    roles = [message["role"] for message in prompt]
    start = prompt[: roles.index("user") + 1] if "user" in roles else prompt
    content = lambda message: str(message.get("content")).strip()
    return "\n".join(
        content(m) if m["role"] == "user" else f"{m['role']}: {content(m)}" for m in start
    )


def _prompt(row: Row) -> Side | None:
    """The prompt that a row has in a column of its own, if it has one."""
    prompt = row.get("prompt")
    if prompt is None and is_chat(messages := row.get("messages")):
        # UltraFeedback's rows repeat the whole chosen chat here.
        prompt = None if messages[-1]["role"] == "assistant" else messages
    if prompt is None or isinstance(prompt, str):
        return prompt
    if not is_chat(prompt):
        raise ValueError(
            f"`prompt` is {repr(prompt)[:80]}; needed is text, or a list of messages with a `role`."
        )
    return list(prompt)


def _parted_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """What two texts have in common, and what follows; a space goes to what follows."""
    if chosen == rejected:
        return "", chosen, rejected
    end = _common(chosen, rejected)
    if end and chosen[end - 1] == " ":
        end -= 1
    if not chosen[:end].strip():
        raise ValueError(
            "`chosen` and `rejected` begin differently, so nothing tells the prompt. Add a `prompt`"
            " column."
        )
    return chosen[:end], chosen[end:], rejected[end:]


def _parted_chats(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """The turns that two chats have in common, and the answers that follow."""
    end = min(_common(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    while end and not (_is_answer(chosen[end:]) and _is_answer(rejected[end:])):
        end -= 1
    if not end:
        raise ValueError(
            "`chosen` and `rejected` are chats that part before the assistant's first turn, so they"
            " are not two answers to one prompt."
        )
    return chosen[:end], chosen[end:], rejected[end:]


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many entries two sequences have in common at their beginning."""
    pairs = enumerate(zip(a, b))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def is_chat(value: Any) -> TypeGuard[list[Message]]:
    """Whether a value is a list of messages, each of which has a role."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in value)
    )


def _is_answer(turns: Sequence[Message]) -> bool:
    return turns[0]["role"] == "assistant"


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]
