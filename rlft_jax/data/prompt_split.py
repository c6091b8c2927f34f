"""Data divided by prompt: a prompt seen in training tells too much about other answers to it."""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from rlft_jax.data.bad_rows import map_rows
from rlft_jax.data.mixtures import Datasets, Part
from rlft_jax.data.pairs import pair_of, prompt_key
from rlft_jax.data.readers import Rows, holdout_size
from rlft_jax.tasks.problem import Message, Row

Prompt = str | Sequence[Message]
PromptOf = Callable[[Row], Prompt]
SharedPrompts = Literal["error", "drop"]


def prompt_of_pair(row: Row) -> Prompt:
    """The prompt of a row with two responses."""
    return pair_of(row).prompt


def prompt_keys(rows: Sequence[Row], prompt_of: PromptOf = prompt_of_pair) -> list[str]:
    """What is equal only for rows that have to be on one side of a split."""
    return map_rows(lambda row: prompt_key(prompt_of(row)), rows)


def split_by_prompt(
    parts: Sequence[Sequence[Row]],
    holdout: int | float,
    *,
    seed: int,
    prompt_of: PromptOf = prompt_of_pair,
) -> list[tuple[Rows, Rows]]:
    """Returns for each data set the rows to train on and those held out, in their order.

    No prompt is on both sides, of whichever data set. Which prompts are held out does not depend
    on the order of the rows.

    Args:
        parts: What to divide.
        holdout: How many rows of each data set to hold out at least, or, below 1, which share:
            prompts are held out with all their rows, one after the other, until there are enough.
        seed: Chooses the prompts.
        prompt_of: Finds the prompt of a row.

    Raises:
        ValueError: If a row has no prompt, or nothing would be left to train on.
    """
    keys = [prompt_keys(rows, prompt_of) for rows in parts]
    chosen: set[str] = set()
    for of_part in keys:
        wanted, rows_of = holdout_size(holdout, len(of_part)), collections.Counter(of_part)
        held = sum(rows_of[key] for key in chosen)
        for key in sorted(rows_of, key=lambda key: _place(key, seed)):
            if held >= wanted:
                break
            if key not in chosen:
                chosen.add(key)
                held += rows_of[key]
    sides = []
    for rows, of_part in zip(parts, keys, strict=True):
        is_held = np.array([key in chosen for key in of_part], bool)
        if is_held.all():
            raise ValueError(
                f"config.data.holdout = {holdout} leaves nothing of {len(rows)} rows to train on:"
                f" all rows of a prompt stay together, and there are {len(set(of_part))} prompts."
                " Lower it."
            )
        sides.append((Rows(rows, np.flatnonzero(~is_held)), Rows(rows, np.flatnonzero(is_held))))
    return sides


def without_shared_prompts(
    parts: Sequence[Sequence[Row]],
    heldout: Sequence[Sequence[Row]],
    *,
    shared_prompts: SharedPrompts = "error",
    prompt_of: PromptOf = prompt_of_pair,
) -> tuple[list[Rows], int]:
    """Returns the rows to train on whose prompts are not held out, and how many others there are.

    Args:
        parts: Rows to train on.
        heldout: Rows held out.
        shared_prompts: What happens to the others: "drop" them, or take one for an "error".
        prompt_of: Finds the prompt of a row.

    Raises:
        ValueError: If there are some where that is an error, or nothing is left.
    """
    keys = [prompt_keys(rows, prompt_of) for rows in parts]
    held = {key for rows in heldout for key in prompt_keys(rows, prompt_of)}
    places = [[i for i, key in enumerate(of_part) if key not in held] for of_part in keys]
    shared = sum(map(len, parts)) - sum(map(len, places))
    if shared and shared_prompts == "error":
        example = next(key for of_part in keys for key in of_part if key in held)
        raise ValueError(
            f"{shared} of {sum(map(len, parts))} rows to train on have prompts that are also held"
            f" out, such as {example[:80]!r}: what is measured on them would be learnt by heart."
            " Set config.data.shared_prompts = 'drop' to leave these rows out of training."
        )
    if not all(places):
        raise ValueError(
            "Nothing is left to train on of one of the data sets: all its prompts are also held"
            " out. Hold out other data."
        )
    return [Rows(rows, which) for rows, which in zip(parts, places, strict=True)], shared


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptDatasets(Datasets):
    """Data sets with responses of their own, divided by prompt.

    Attributes:
        shared_prompts: What happens to rows whose prompt is in the `heldout_path` too.
    """

    shared_prompts: SharedPrompts = "error"

    def divided_by_prompt(
        self, seed: int, prompt_of: PromptOf = prompt_of_pair
    ) -> tuple[list[Part], list[Part], int]:
        """Returns the rows to train on and those held out, and how many are left out as shared.

        Args:
            seed: Chooses the prompts that are held out.
            prompt_of: Finds the prompt of a row.
        """
        train, heldout = self.divided(seed, functools.partial(split_parts, prompt_of=prompt_of))
        if not self.heldout_path:
            return train, heldout, 0
        kept, shared = without_shared_prompts(
            [rows for _, rows in train],
            [rows for _, rows in heldout],
            shared_prompts=self.shared_prompts,
            prompt_of=prompt_of,
        )
        return (
            [(source, rows) for (source, _), rows in zip(train, kept, strict=True)],
            heldout,
            shared,
        )


def split_parts(
    parts: Sequence[Part], holdout: int | float, seed: int, *, prompt_of: PromptOf = prompt_of_pair
) -> list[tuple[Rows, Rows]]:
    """Returns what `split_by_prompt` does, as `Datasets.divided` asks for it."""
    if not holdout:
        return [(Rows(rows, range(len(rows))), Rows(rows, [])) for _, rows in parts]
    try:
        return split_by_prompt([rows for _, rows in parts], holdout, seed=seed, prompt_of=prompt_of)
    except ValueError as error:
        paths = ", ".join(repr(source.path) for source, _ in parts)
        raise ValueError(f"{parts[0][0].setting} = {paths}: {error}") from error


def _place(key: str, seed: int) -> bytes:
    """Where a prompt stands in the order in which prompts are held out."""
    return hashlib.sha256(f"{seed} {key}".encode(errors="surrogatepass")).digest()
