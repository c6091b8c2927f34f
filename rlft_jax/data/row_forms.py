"""Rows as they come, made into prompts and completions where no task does that."""

from collections.abc import Sequence
from typing import Any, Literal

from rlft_jax.tasks.problem import Message, Problem, Row

Turns = Literal["all", "first"]
CHAT = "chat"


def demonstration(row: Row, *, template: str | None, turns: Turns) -> Row:
    """A row in a format of `chat.pieces`.

    Rows of `instruction`, `input` and `output`, as Alpaca has them, have the first two as their
    prompt. The template "chat" makes text a turn of the user and an answer of the assistant.

    >>> row = {"instruction": "Double it.", "input": "2", "output": "4"}
    >>> demonstration(row, template=None, turns="all")
    {'prompt': 'Double it.\\n\\n2', 'completion': '4'}
    """
    row = _as_chat(_named(row)) if template == CHAT else _named(row)
    if turns == "first" and (chat := _chat(row)):
        rest = {name: row[name] for name in row if name not in ("prompt", "completion")}
        return {**rest, "messages": chat[: _first_answer(chat) + 1]}
    return row


def problem(row: Row, *, template: str | None, turns: Turns) -> Problem:
    """The prompt of a row, with all other columns for the verifier.

    Of a chat it is what comes before its last answer, or before its first one.

    Raises:
        ValueError: If the row has none.
    """
    named = _as_chat(_named(row)) if template == CHAT else _named(row)
    column = "messages" if named.get("prompt") is None else "prompt"
    prompt = named.get(column)
    if prompt is None:
        raise ValueError(
            f"The columns {', '.join(row) or '(none)'} hold no prompt. Needed is `prompt` (text"
            " or a chat) or `messages`, or a task that knows these columns (config.data.task)."
        )
    if isinstance(prompt, list):
        if turns == "first":
            prompt = prompt[: _first_answer(prompt)]
        elif prompt and _role(prompt[-1]) == "assistant":
            prompt = prompt[:-1]
    return Problem(prompt, {name: named[name] for name in named if name != column})


def _named(row: Row) -> Row:
    """A row of Alpaca's columns under the names of the others."""
    is_other = row.get("prompt") is not None or row.get("messages") is not None
    if is_other or not isinstance(row.get("instruction"), str):
        return row
    given = [row["instruction"], *([row["input"]] if row.get("input") else [])]
    rest = {name: row[name] for name in row if name not in ("instruction", "input", "output")}
    completion = {} if row.get("output") is None else {"completion": row["output"]}
    return {**rest, "prompt": "\n\n".join(given), **completion}


def _as_chat(row: Row) -> Row:
    roles = {"prompt": "user", "completion": "assistant"}
    turns = {
        name: [{"role": role, "content": row[name]}]
        for name, role in roles.items()
        if isinstance(row.get(name), str)
    }
    return {**row, **turns}


def _chat(row: Row) -> list[Message]:
    """All turns of a row; none of one that is text."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(row.get("messages"), list) and prompt is None:
        return row["messages"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return [*prompt, *completion]
    return []


def _first_answer(chat: Sequence[Message]) -> int:
    """The place of the assistant's first turn; the end of a chat that has none."""
    return next((i for i, turn in enumerate(chat) if _role(turn) == "assistant"), len(chat))


def _role(turn: Any) -> Any:
    return turn.get("role") if isinstance(turn, dict) else None
