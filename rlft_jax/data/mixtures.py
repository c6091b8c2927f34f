"""Where a run's rows come from: one data set, or a mixture of several by weight."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlft_jax.data import row_forms
from rlft_jax.data.readers import Rows, read_rows, split_holdout
from rlft_jax.tasks import TASKS
from rlft_jax.tasks.problem import Problem, Row, lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set: `read_rows`' settings, its weight in a mixture, and the task of its rows.

    Attributes:
        weight: How often it is drawn from, relative to the weights of the others.
        task: What makes prompts and completions of its rows; None if they have them already.
        template: How the task poses its problems; None for the task's default. Without a task,
            "chat" makes text a turn of a chat.
        turns: Without a task, whole chats, or the first question and its answer.
        setting: What the user named the path with, for errors.
    """

    path: str
    split: str = "train"
    subset: str | None = None
    limit: int | None = None
    weight: int | float = 1.0
    task: str | None = None
    template: str | None = None
    turns: row_forms.Turns = "all"
    setting: str = "config.data.path"

    def read(self) -> Rows:
        """Returns the rows as they are stored."""
        how = {"split": self.split, "subset": self.subset, "limit": self.limit}
        return read_rows(self.path, setting=self.setting, **how)

    def problem(self, row: Row) -> Problem:
        """Returns the problem of a row, with all other columns for the verifier."""
        if self.task is not None:
            return lookup("task", self.task, TASKS).problem(row, **self._settings)
        return row_forms.problem(row, template=self.template, turns=self.turns)

    def demonstration(self, row: Row) -> Row:
        """Returns a row with a prompt and the completion to imitate."""
        if self.task is None:
            return row_forms.demonstration(row, template=self.template, turns=self.turns)
        task = lookup("task", self.task, TASKS)
        prompt, completion = self.problem(row).prompt, task.demonstration(row, **self._settings)
        if isinstance(prompt, str):
            return {"prompt": prompt, "completion": completion}
        answer = [{"role": "assistant", "content": completion}]
        return {"prompt": list(prompt), "completion": answer}

    @property
    def _settings(self) -> dict[str, str]:
        return {} if self.template is None else {"template": self.template}


Part = tuple[DatasetSpec, Sequence[Row]]
# Divides each of several data sets, given how much to hold out and a seed, into rows to train on
# and rows held out.
Split = Callable[[Sequence[Part], int | float, int], list[tuple[Rows, Rows]]]


def by_rows(parts: Sequence[Part], holdout: int | float, seed: int) -> list[tuple[Rows, Rows]]:
    """Divides the rows of each source one by one."""
    return [split_holdout(rows, holdout, seed=seed) for _, rows in parts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Datasets:
    """What a run learns from, and what it is measured on.

    Attributes:
        path: A JSONL (also .gz), JSON or Parquet file, a folder of them, or a name on the hub.
        mixture: Instead of `path`, several data sets: each has its `path` and `weight`, and what
            differs from the settings here.
        split: Which split of a folder or hub data set; may be a slice such as train[:1000].
        subset: Which configuration of a hub data set.
        limit: Use the first rows of each data set only.
        holdout: How many rows of each data set, or which share, are held out; where rows have
            responses that are compared or graded, all rows of a prompt together, so there may be
            a few more.
        heldout_path: Instead, a data set to evaluate on; of it `holdout` rows (0: all) are taken.
        heldout_split: Which split of it.
    """

    path: str = ""
    mixture: Sequence[Mapping[str, Any]] = ()
    split: str = "train"
    subset: str | None = None
    limit: int | None = None
    holdout: int | float = 0
    heldout_path: str = ""
    heldout_split: str = "test"

    def sources(self) -> list[DatasetSpec]:
        """Returns the parts of the mixture, or the one data set at `path`.

        Raises:
            ValueError: If both or neither are given, or a part has settings that do not exist.
        """
        if bool(self.path) == bool(self.mixture):
            raise ValueError(
                f"config.data.path = {self.path!r} and config.data.mixture has"
                f" {len(self.mixture)} parts. Set one of the two."
            )
        settings = {field.name for field in dataclasses.fields(DatasetSpec)}
        common = {name: value for name, value in vars(self).items() if name in settings}
        known = {*common, "weight"}
        parts, wrong = [], []
        for number, part in enumerate(self.mixture or [{"path": self.path}]):
            unknown = sorted(part.keys() - known)
            if unknown or "path" not in part:
                wrong.append(
                    f"- part {number} has {', '.join(part)}: unknown are {unknown or 'none'}."
                )
            elif not _is_weight(part.get("weight", 1.0)):
                wrong.append(
                    f"- part {number} has weight {part['weight']!r}: it has to be above 0."
                )
            else:
                setting = "config.data.mixture" if self.mixture else "config.data.path"
                parts.append(DatasetSpec(**{**common, **part}, setting=setting))
        if wrong:
            raise ValueError(
                "config.data.mixture cannot be read:\n"
                + "\n".join(wrong)
                + "\nA part has a `path`,"
                f" and may have {', '.join(sorted(known - {'path'}))}."
            )
        return parts

    def divided(self, seed: int, split: Split = by_rows) -> tuple[list[Part], list[Part]]:
        """Returns the rows to train on and those held out, each with where they are from.

        Args:
            seed: Chooses the rows that are held out.
            split: Which rows may be parted from which others.
        """
        everything = self.sources()
        parts: list[Part] = [(source, source.read()) for source in everything]
        if self.heldout_path:
            heldout = dataclasses.replace(
                everything[0],
                path=self.heldout_path,
                setting="config.data.heldout_path",
                split=self.heldout_split,
                limit=int(self.holdout) or None,
            )
            return parts, [(heldout, heldout.read())]
        sides = list(zip(everything, split(parts, self.holdout, seed), strict=True))
        train: list[Part] = [(source, rows) for source, (rows, _) in sides]
        return train, [(source, rows) for source, (_, rows) in sides if rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskDatasets(Datasets):
    """Data sets whose rows a task may turn into prompts and completions.

    Attributes:
        task: Makes prompts and completions from the rows' own columns.
        template: How the task poses its problems. Without a task, "chat" makes text prompts and
            completions the turns of a chat.
        turns: Without a task, whole chats, or their first question with its answer.
    """

    task: str | None = None
    template: str | None = None
    turns: row_forms.Turns = "all"


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
