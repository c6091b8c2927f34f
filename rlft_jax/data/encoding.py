"""Rows become examples, many at once, and what is dropped or cut on the way is counted.

A row may make several examples that belong together, such as the two sides of a preference: they
are kept or dropped together.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np

from rlft_jax.batch import Example
from rlft_jax.data import chat
from rlft_jax.data.bad_rows import map_rows, refuse
from rlft_jax.data.mixtures import DatasetSpec, Part
from rlft_jax.data.readers import Rows
from rlft_jax.data.report import Report
from rlft_jax.data.tokenizer import Tokenizer, stop_ids
from rlft_jax.tasks.problem import Row

TooLong = Literal["drop", "truncate", "error"]
Progress = Callable[[int, int], None]
Group = tuple[Example, ...]
# The texts of a row, in pieces; none if the row is to be left out.
Cut = Callable[[Row], Sequence[Sequence[chat.Piece]]]
Item = TypeVar("Item")
Encode = Callable[[DatasetSpec, Sequence[Row]], tuple[list[Item], Report]]

# Rows encoded together: enough to keep all cores busy, few enough for a smooth progress bar.
CHUNK = 512


@dataclasses.dataclass(frozen=True)
class Data(Generic[Item]):
    """What a run learns from, and what it is measured on.

    Attributes:
        parts: Examples, groups of them, or problems, for each part of the mixture.
        weights: How often each part is drawn from, relative to the others.
        report: What became of the rows behind `parts`.
        heldout: Those kept to evaluate on.
        heldout_report: What became of the rows behind them.
    """

    parts: Sequence[Sequence[Item]]
    weights: Sequence[int | float]
    report: Report
    heldout: Sequence[Item]
    heldout_report: Report

    @property
    def size(self) -> int:
        """Items of all parts."""
        return sum(map(len, self.parts))


def encode_parts(
    train: Sequence[Part],
    heldout: Sequence[Part],
    encode: Encode[Item],
    *,
    shared_prompts: int = 0,
) -> Data[Item]:
    """Encodes the rows of each source.

    Args:
        train: Rows to learn from.
        heldout: Rows to measure on.
        encode: Makes items of the rows of one source, and tells what became of all.
        shared_prompts: How many other rows were left out because their prompts are held out.

    Raises:
        ValueError: If rows of a source are wrong, or nothing of it is left, naming the source.
    """
    parts, reports = _each_encoded(train, encode)
    heldout_parts, heldout_reports = _each_encoded(heldout, encode)
    return Data(
        parts=parts,
        weights=[source.weight for source, _ in train],
        report=dataclasses.replace(Report.total(reports), shared_prompts=shared_prompts),
        heldout=list(itertools.chain.from_iterable(heldout_parts)),
        heldout_report=Report.total(heldout_reports),
    )


def _each_encoded(
    parts: Sequence[Part], encode: Encode[Item]
) -> tuple[list[list[Item]], list[Report]]:
    kept, reports = [], []
    for source, rows in parts:
        try:
            items, report = encode(source, rows)
        except ValueError as error:
            raise ValueError(f"{source.setting} = {source.path!r}: {error}") from error
        if not items:
            losses = " and ".join(f"{count} {why}" for why, count in report.losses.items() if count)
            raise ValueError(
                f"Nothing is left of {source.setting} = {source.path!r}: of {report.rows} rows"
                f" {losses}."
            )
        kept.append(items)
        reports.append(report)
    return kept, reports


def encode_groups(
    rows: Sequence[Row],
    cut: Cut,
    tokenizer: Tokenizer,
    *,
    tokens: int,
    too_long: TooLong = "drop",
    progress: Progress | None = None,
) -> tuple[list[Group], Report]:
    """Returns what can be learnt from, encoded, in the order of rows, and what became of all rows.

    Args:
        rows: Of one data set.
        cut: Makes one or several texts of a row.
        tokenizer: Of the model.
        tokens: The most that an example may have.
        too_long: "drop" rows of which an example has more than `tokens` tokens (half an answer is
            a bad example), or "truncate" them at their end, or take one for an "error".
        progress: Called with the rows done and the rows there are.

    Raises:
        ValueError: If a row cannot be encoded, naming the first few such rows, or is too long
            where that is an error.
    """
    groups: list[Group] = []
    lengths: list[int] = []
    wrong: list[str] = []
    fates = collections.Counter()
    rows = rows if isinstance(rows, Rows) else Rows(rows, range(len(rows)))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        texts = map_rows(lambda row: _encodable(cut(row)), chunk)
        for place, group in enumerate(_encoded(texts, tokenizer)):
            length = max((len(example.tokens) for example in group), default=0)
            if length > tokens and too_long == "error":
                where = chunk.place(place)
                wrong.append(f"{where}: {length} tokens, more than config.batch.tokens = {tokens}.")
            if group:
                lengths.append(length)
            fate = _fate(group, tokens, too_long)
            fates[fate] += 1
            if fate == "truncated":
                group = tuple(Example(*(field[:tokens].copy() for field in e)) for e in group)
            if fate in ("kept", "truncated"):
                groups.append(group)
        if progress is not None:
            progress(min(start + CHUNK, len(rows)), len(rows))
    if wrong:
        refuse(wrong)
    return groups, _report(groups, fates, lengths, stop_ids(tokenizer))


def _encodable(texts: Sequence[Sequence[chat.Piece]]) -> Sequence[Sequence[chat.Piece]]:
    """The pieces of a row, if all of them are text that can be encoded."""
    for piece in itertools.chain.from_iterable(texts):
        chat.encodable(piece.text)
    return texts


def _encoded(
    rows: Sequence[Sequence[Sequence[chat.Piece]]], tokenizer: Tokenizer
) -> Iterator[Group]:
    """Encodes the pieces of many rows at once."""
    every = [piece.text for texts in rows for cut in texts for piece in cut]
    ids = iter(tokenizer.encode_batch(every))
    for texts in rows:
        yield tuple(chat.join(cut, list(itertools.islice(ids, len(cut)))) for cut in texts)


def _fate(group: Group, tokens: int, too_long: TooLong) -> str:
    """What becomes of the examples of a row: the name of a count of `Report`."""
    is_long = any(len(example.tokens) > tokens for example in group)
    if not group:
        return "later_turns"
    if is_long and too_long == "drop":
        return "too_long"
    if not all(example.is_response[:tokens].any() for example in group):
        return "nothing_to_learn"
    first, *others = (example.tokens[:tokens] for example in group)
    if others and all(np.array_equal(first, other) for other in others):
        return "equal"
    return "truncated" if is_long else "kept"


def _report(
    groups: Sequence[Group],
    fates: Mapping[str, int],
    lengths: Sequence[int],
    stops: Sequence[int],
) -> Report:
    examples = list(itertools.chain.from_iterable(groups))
    ends = lambda example: int(example.tokens[example.is_response][-1]) in stops
    dropped = ("too_long", "nothing_to_learn", "equal", "later_turns")
    return Report(
        kept=len(groups),
        truncated=fates["truncated"],
        stops=sum(all(map(ends, group)) for group in groups),
        tokens=sum(len(example.tokens) for example in examples),
        response_tokens=sum(int(example.is_response.sum()) for example in examples),
        lengths=np.array(lengths, np.int64),
        **{fate: fates[fate] for fate in dropped},
    )
