"""Files of one request a line, as `rlft generate`, `rlft logprobs` and `rlft score` take them."""

import gzip
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlft_jax.data.chat import encodable, encode_prompt
from rlft_jax.data.formatting import Formatted, Formatter
from rlft_jax.data.tokenizer import Tokenizer

ENCODED = ("prompt", "messages", "completion", "tools", "chat_template_kwargs")
SHOWN = 10  # mistakes to list; who made one often made it on every line


class Request(NamedTuple):
    """A line of a file."""

    line: int
    row: dict[str, Any]

    @property
    def prompt(self) -> Any:
        """What to continue: text, or the turns of a chat."""
        return self.row["prompt"] if "prompt" in self.row else self.row["messages"]


def read_requests(path: str | os.PathLike[str], *, with_completion: bool = False) -> list[Request]:
    """Returns the lines of a .jsonl or .jsonl.gz file; blank ones don't count.

    Args:
        path: The file.
        with_completion: Whether each needs a `completion` beside its prompt.

    Raises:
        ValueError: If lines are no requests, naming them, or there are none.
    """
    found = [_request(number, line, with_completion) for number, line in _lines(path)]
    refuse(path, [request for request in found if isinstance(request, str)])
    if not found:
        raise ValueError(f"{path} has no lines. Write one request a line.")
    return [request for request in found if isinstance(request, Request)]


def encode_requests(
    path: str | os.PathLike[str],
    requests: Sequence[Request],
    tokenizer: Tokenizer,
    *,
    positions: int,
    following: Sequence[int],
) -> list[list[int]]:
    """Returns the ids of each request's prompt.

    Args:
        path: Where the requests are from.
        requests: What to encode.
        tokenizer: The model's.
        positions: The most tokens that the model takes.
        following: How many tokens follow each prompt.

    Raises:
        ValueError: If prompts cannot be encoded or are too long, naming their lines.
    """
    encoded, problems = [], []
    for request, after in zip(requests, following, strict=True):
        try:
            ids = encode_prompt(request.prompt, tokenizer, columns=request.row)
        except ValueError as error:
            problems.append(f"line {request.line}: {error}")
            continue
        if len(ids) + after > positions:
            problems.append(
                f"line {request.line}: {len(ids)} tokens of prompt and {after} after it exceed"
                f" the model's {positions} positions. Shorten one of them."
            )
        encoded.append(ids)
    refuse(path, problems)
    return encoded


def format_requests(
    path: str | os.PathLike[str], requests: Sequence[Request], formatter: Formatter
) -> list[Formatted]:
    """Returns what a reward model reads of each request's prompt and completion.

    Raises:
        ValueError: If some cannot be read or are too long, naming their lines.
    """
    try:
        made = formatter.formatted([(r.prompt, r.row["completion"]) for r in requests])
    except ValueError:
        refuse(path, [problem for r in requests if (problem := _unreadable(r, formatter))])
        raise
    cuts = formatter.too_long == "cut"
    how = "even with all of its prompt cut that may be" if cuts else "and nothing is to be cut"
    problems = [
        f"line {request.line}: {one.length} tokens do not fit into the {formatter.tokens} that the"
        f" reward model reads, {how}."
        for request, one in zip(requests, made, strict=True)
        if one.text is None
    ]
    refuse(path, problems)
    return made


def refuse(path: str | os.PathLike[str], problems: Sequence[str]) -> None:
    """Raises ValueError with what is wrong with the lines of a file, if anything is."""
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "\n- ".join([*problems[:SHOWN], *more])
        raise ValueError(f"{path} cannot be used:\n- {listed}")


def _unreadable(request: Request, formatter: Formatter) -> str | None:
    """Why a request cannot be formatted, if it cannot."""
    try:
        formatter.formatted([(request.prompt, request.row["completion"])])
    except ValueError as error:
        return f"line {request.line}: {error}"
    return None


def _request(number: int, line: str, with_completion: bool) -> Request | str:
    """A line as a request, or what is wrong with it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"line {number} is not JSON: {error.msg} at column {error.colno}."
    except (ValueError, RecursionError) as error:
        return f"line {number} cannot be read as JSON: {error}."
    wanted = '{"prompt": "text"} or {"messages": [...]}'
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        return f"line {number} is {line.strip()[:60]!r}, but either of {wanted} is needed."
    if not isinstance(row.get("prompt", ""), str) or not isinstance(row.get("messages", []), list):
        return f"line {number} has another type than {wanted}."
    if with_completion and not isinstance(row.get("completion"), str):
        return f'line {number} has no "completion" that is text.'
    try:
        encodable(json.dumps([row.get(column) for column in ENCODED], ensure_ascii=False))
    except ValueError as error:
        return f"line {number}: {error}"
    return Request(number, row)


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank, with their numbers."""
    path = pathlib.Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            yield from ((n, line) for n, line in enumerate(file, start=1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise ValueError(f"{path} cannot be read: {why or error}.") from error


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line of a file."""
    return json.dumps(row, ensure_ascii=True) + "\n"
