"""Pairs of responses of which one was preferred, encoded before training starts."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlft_jax.data import chat
from rlft_jax.data.encoding import Group, Progress, TooLong, each_encoded, encode_groups
from rlft_jax.data.mixtures import Source, divide, sources
from rlft_jax.data.pairs import pair_of
from rlft_jax.data.prompt_split import SharedPrompts, parts_without_shared, split_parts
from rlft_jax.data.report import Report
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Row

Turns = Literal["all", "first"]


class Preferences(NamedTuple):
    """Pairs of examples, the chosen one first, part by part of the mixture, and pairs held out."""

    parts: list[list[Group]]
    weights: list[int | float]
    report: Report
    heldout: list[Group]
    heldout_report: Report


def preferences(
    tokenizer: Tokenizer,
    tokens: int,
    seed: int,
    progress: Progress | None = None,
    *,
    path: str = "",
    mixture: Sequence[Mapping[str, Any]] = (),
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    holdout: int | float = 0,
    heldout_path: str = "",
    heldout_split: str = "test",
    shared_prompts: SharedPrompts = "error",
    turns: Turns = "all",
    too_long: TooLong = "drop",
) -> Preferences:
    """Reads and encodes the pairs that a policy learns from.

    Args:
        tokenizer: Of the model.
        tokens: The most that a prompt with a response may have.
        seed: Chooses the prompts that are held out.
        progress: Called with the rows done and the rows there are, of each data set.
        path: A JSONL (also .gz), JSON or Parquet file, a folder of them, or a name on the hub.
        mixture: Instead of `path`, several data sets: each has its `path` and `weight`, and what
            differs from the settings here.
        split: Which split of a folder or hub data set; may be a slice such as train[:1000].
        subset: Which configuration of a hub data set.
        limit: Use the first rows of each data set only.
        holdout: How many rows of each data set, or which share, are held out: all rows of a prompt
            together, so there may be a few more.
        heldout_path: Instead, a data set to evaluate on; of it `holdout` rows (0: all) are taken.
        heldout_split: Which split of it.
        shared_prompts: What happens to rows whose prompt is in the `heldout_path` too.
        turns: Whole chats, or only pairs that answer the first question of a chat, without what
            comes after the answer.
        too_long: What happens to pairs of which a side has more than `tokens` tokens.

    Raises:
        ValueError: If data cannot be read, has another format, or nothing of it is left.
    """
    everything = sources(path, mixture, split=split, subset=subset, limit=limit)
    _refuse_tasks(everything)
    train, heldout = divide(
        everything,
        holdout=holdout,
        heldout_path=heldout_path,
        heldout_split=heldout_split,
        seed=seed,
        split=split_parts,
    )
    shared = 0
    if heldout_path:
        train, shared = parts_without_shared(train, heldout, shared_prompts=shared_prompts)

    def encode(source: Source, rows: Sequence[Row]) -> tuple[list[Group], Report]:
        return encode_pairs(
            rows, tokenizer, tokens=tokens, turns=turns, too_long=too_long, progress=progress
        )

    parts, reports = each_encoded(train, encode)
    heldout_parts, heldout_reports = each_encoded(heldout, encode)
    return Preferences(
        parts=parts,
        weights=[source.weight for source in everything],
        report=dataclasses.replace(Report.total(reports), shared_prompts=shared),
        heldout=list(itertools.chain.from_iterable(heldout_parts)),
        heldout_report=Report.total(heldout_reports),
    )


def encode_pairs(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    tokens: int,
    turns: Turns = "all",
    too_long: TooLong = "drop",
    progress: Progress | None = None,
) -> tuple[list[Group], Report]:
    """Returns pairs of examples, the chosen one first, and what became of all rows.

    The policy answers for each response with the token that ends it, never for the prompt. Pairs
    that are equal, or become equal when cut, are dropped; see `encode_groups` for the rest.
    """

    def cut(row: Row) -> list[list[chat.Piece]]:
        pair = pair_of(row)
        if turns == "first" and not isinstance(pair.prompt, str):
            if any(message["role"] == "assistant" for message in pair.prompt):
                return []
            pair = pair._replace(chosen=pair.chosen[:1], rejected=pair.rejected[:1])
        sides = (pair.chosen, pair.rejected)
        texts = [{**row, "prompt": pair.prompt, "completion": side} for side in sides]
        return [chat.pieces(text, tokenizer) for text in texts]

    return encode_groups(rows, cut, tokenizer, tokens=tokens, too_long=too_long, progress=progress)


def _refuse_tasks(everything: Sequence[Source]) -> None:
    if any(source.task or source.template for source in everything):
        raise ValueError(
            "Pairs bring their own prompts and responses: a task or template in data.mixture would"
            " have no effect. Remove it."
        )
