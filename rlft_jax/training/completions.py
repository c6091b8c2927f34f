"""Sample completions as people read them: a few on the terminal, all in TensorBoard and wandb."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from rlft_jax.progress import preview

# Rows on the terminal, and the most characters of a text there.
SHOWN, LONGEST = 4, 240
TEXTS = ("prompt", "completion")

# A prompt, its completion, and numbers by name: rewards and the advantage.
Row: TypeAlias = Mapping[str, Any]


def show(step: int, rows: Sequence[Row]) -> None:
    """Shows the first few above the bar of a terminal, long texts without their middle."""
    if not rows:
        return
    columns, found = cells(rows[:SHOWN])
    short = [[excerpt(x) if isinstance(x, str) else f"{x:.3g}" for x in row] for row in found]
    preview(f"Completions at step {step}", columns, short, texts=len(TEXTS))


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Columns, and rows of texts and numbers, texts first."""
    columns = [*TEXTS, *(name for name in rows[0] if name not in TEXTS)] if rows else [*TEXTS]
    return columns, [
        [text(row[name]) if name in TEXTS else row[name] for name in columns] for row in rows
    ]


def markdown(rows: Sequence[Row]) -> str:
    """Whole texts, as they are: a block that is set in by four spaces is nowhere interpreted."""
    parts = []
    for row in rows:
        facts = ", ".join(f"{name} {row[name]:.3g}" for name in row if name not in TEXTS)
        prompt, completion = (_set_in(text(row[name])) for name in TEXTS)
        parts.append(f"**prompt**\n\n{prompt}\n\n**completion**: {facts}\n\n{completion}")
    return "\n\n---\n\n".join(parts)


def text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """A prompt or completion as text, if it is one of messages."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def excerpt(text: str, longest: int = LONGEST) -> str:
    """Beginning and end of a long text, in one line.

    >>> excerpt("What is\\n 1 + 1?"), excerpt("from first to last", longest=10)
    ('What is 1 + 1?', 'from … last')
    """
    words = " ".join(text.split())
    half = longest // 2
    return words if len(words) <= longest else f"{words[:half].rstrip()} … {words[-half:].lstrip()}"


def _set_in(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))
