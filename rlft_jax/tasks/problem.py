"""What every task is made of: a problem to pose, and the grade of a response to it."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""One turn of a chat: "role", "content", and whatever else the chat template reads."""

Row = Mapping[str, Any]
"""One record of a data set."""


@dataclass(frozen=True)
class Problem:
    """A prompt, and what a verifier has to know about it.

    Attributes:
        prompt: Plain text, or the turns of a chat up to the one to be written.
        columns: Everything else that the row holds, among it what the verifier needs.
    """

    prompt: str | Sequence[Message]
    columns: Row


@dataclass(frozen=True)
class Grade:
    """What a response is worth. Outcome and format stay apart: a mean score is no accuracy.

    Attributes:
        correct: Whether the answer solves the problem.
        formatted: Whether an answer could be read at all.
        score: The task's score, which may reward the format of a wrong answer.
        answer: The answer in a canonical form, to vote with; None where there is none.
    """

    correct: bool
    formatted: bool
    score: float
    answer: Hashable | None = None


def require_columns(row: Row, names: Sequence[str], *, task: str) -> None:
    """Raises ValueError unless the row has the columns that the task reads."""
    missing = [name for name in names if row.get(name) is None]
    if missing:
        raise ValueError(
            f"A {task} row needs the columns {', '.join(names)}, but this one lacks"
            f" {', '.join(missing)}: it has {', '.join(row) or 'none'}."
            f" Rename its columns, or choose another task."
        )


def lookup(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry of a table that the user named, or a ValueError that lists the names."""
    if name not in table:
        raise ValueError(f"There is no {what} {name!r}. Choose one of {', '.join(table)}.")
    return table[name]
