"""Where a run's rows come from: one data set, or a mixture of several by weight."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlft_jax.data.readers import Rows, read_rows, split_holdout
from rlft_jax.tasks import TASKS
from rlft_jax.tasks.problem import Problem, Row, lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One data set: `read_rows`' settings, its weight in a mixture, and the task of its rows.

    Attributes:
        weight: How often it is drawn from, relative to the weights of the others.
        task: What makes prompts and completions of its rows; None if they have them already.
        template: How the task poses its problems; None for the task's default.
    """

    path: str
    split: str = "train"
    subset: str | None = None
    limit: int | None = None
    weight: int | float = 1.0
    task: str | None = None
    template: str | None = None

    def read(self) -> Rows:
        """Returns the rows as they are stored."""
        return read_rows(self.path, split=self.split, subset=self.subset, limit=self.limit)

    def problem(self, row: Row) -> Problem:
        """Returns the problem of a row, with all other columns for the verifier."""
        if self.task is not None:
            return lookup("task", self.task, TASKS).problem(row, **self._settings)
        column = "messages" if row.get("prompt") is None else "prompt"
        if row.get(column) is None:
            raise ValueError(
                f"The columns {', '.join(row) or '(none)'} hold no prompt. Needed is `prompt` (text"
                " or a chat) or `messages`, or a task that knows these columns (config.data.task)."
            )
        return Problem(row[column], {name: row[name] for name in row if name != column})

    def demonstration(self, row: Row) -> Row:
        """Returns a row with a prompt and the completion to imitate."""
        if self.task is None:
            return row
        task = lookup("task", self.task, TASKS)
        prompt, completion = self.problem(row).prompt, task.demonstration(row, **self._settings)
        if isinstance(prompt, str):
            return {"prompt": prompt, "completion": completion}
        answer = [{"role": "assistant", "content": completion}]
        return {"prompt": list(prompt), "completion": answer}

    @property
    def _settings(self) -> dict[str, str]:
        return {} if self.template is None else {"template": self.template}


Part = tuple[Source, Sequence[Row]]
# Divides each of several data sets, given how much to hold out and a seed, into rows to train on
# and rows held out.
Split = Callable[[Sequence[Part], int | float, int], list[tuple[Rows, Rows]]]


def sources(path: str, mixture: Sequence[Mapping[str, Any]], **defaults: Any) -> list[Source]:
    """Returns the parts of a mixture, or the one data set at `path`.

    Args:
        path: The only data set; empty where there is a mixture.
        mixture: Settings of each part: its `path` and `weight`, and what differs from `defaults`.
        defaults: Settings that all parts share.

    Raises:
        ValueError: If both or neither are given, or a part has settings that do not exist.
    """
    if bool(path) == bool(mixture):
        raise ValueError(
            f"data.path = {path!r} and data.mixture has {len(mixture)} parts. Set one of the two."
        )
    known = {field.name for field in dataclasses.fields(Source)}
    given: list[dict[str, Any]] = [dict(part) for part in mixture] or [{"path": path}]
    parts, wrong = [], []
    for number, part in enumerate(given):
        unknown = sorted(part.keys() - known)
        if unknown or "path" not in part:
            wrong.append(f"- part {number} has {', '.join(part)}: unknown are {unknown or 'none'}.")
        elif not _is_weight(part.get("weight", 1.0)):
            wrong.append(f"- part {number} has weight {part['weight']!r}: it has to be above 0.")
        else:
            parts.append(Source(**{**defaults, **part}))
    if wrong:
        raise ValueError(
            "data.mixture cannot be read:\n" + "\n".join(wrong) + "\nA part has a `path`, and may"
            f" have {', '.join(sorted(known - {'path'}))}."
        )
    return parts


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def by_rows(parts: Sequence[Part], holdout: int | float, seed: int) -> list[tuple[Rows, Rows]]:
    """Divides the rows of each source one by one."""
    return [split_holdout(rows, holdout, seed=seed) for _, rows in parts]


def divide(
    everything: Sequence[Source],
    *,
    holdout: int | float,
    heldout_path: str,
    heldout_split: str,
    seed: int,
    split: Split = by_rows,
) -> tuple[list[Part], list[Part]]:
    """Returns the rows to train on and those held out, each with where they are from.

    Args:
        everything: What to read.
        holdout: How many rows of each source to hold out, or which share of them; with a
            `heldout_path`, how many rows to take from there (0: all).
        heldout_path: Another data set to hold out, with the other settings of the first source.
        heldout_split: Which split of it.
        seed: Chooses rows.
        split: Which rows may be parted from which others.
    """
    parts: list[Part] = [(source, source.read()) for source in everything]
    if heldout_path:
        limit = int(holdout) or None
        heldout = dataclasses.replace(
            everything[0], path=heldout_path, split=heldout_split, limit=limit
        )
        return parts, [(heldout, heldout.read())]
    sides = [(source, *pair) for (source, _), pair in zip(parts, split(parts, holdout, seed))]
    train: list[Part] = [(source, rows) for source, rows, _ in sides]
    return train, [(source, rows) for source, _, rows in sides if rows]
