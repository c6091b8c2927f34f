"""Data sets to imitate, encoded before training starts, so that counts and steps are known."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np

from rlft_jax.batch import Example
from rlft_jax.data import chat
from rlft_jax.data.mixtures import Part, divide, sources
from rlft_jax.data.readers import Rows
from rlft_jax.data.report import Report
from rlft_jax.data.tokenizer import Tokenizer, stop_ids
from rlft_jax.tasks.problem import Row

TooLong = Literal["drop", "truncate", "error"]
Progress = Callable[[int, int], None]

# Rows encoded together: enough to keep all cores busy, few enough for a smooth progress bar.
CHUNK = 512
# Bad rows to show before giving up: a wrong format spoils all of them.
SHOWN = 5


class Demonstrations(NamedTuple):
    """Examples to learn from, part by part of the mixture, and examples held out."""

    parts: list[list[Example]]
    weights: list[int | float]
    report: Report
    heldout: list[Example]
    heldout_report: Report


def demonstrations(
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
    task: str | None = None,
    template: str | None = None,
    holdout: int | float = 0,
    heldout_path: str = "",
    heldout_split: str = "test",
    loss_on: chat.LossOn = "assistant",
    too_long: TooLong = "drop",
) -> Demonstrations:
    """Reads and encodes what a run learns from.

    Args:
        tokenizer: Of the model.
        tokens: The most that an example may have.
        seed: Chooses the rows that are held out.
        progress: Called with the rows done and the rows there are, of each data set.
        path: A JSONL (also .gz), JSON or Parquet file, a folder of them, or a name on the hub.
        mixture: Instead of `path`, several data sets: each has its `path` and `weight`, and what
            differs from the settings here.
        split: Which split of a folder or hub data set; may be a slice such as train[:1000].
        subset: Which configuration of a hub data set.
        limit: Use the first rows of each data set only.
        task: Makes prompts and completions from the rows' own columns.
        template: How the task poses its problems.
        holdout: How many rows of each data set, or which share, are held out.
        heldout_path: Instead, a data set to evaluate on; of it `holdout` rows (0: all) are taken.
        heldout_split: Which split of it.
        loss_on: Which tokens are trained on: all turns of the assistant, its last one, or all
            there is.
        too_long: What happens to rows of more than `tokens` tokens.

    Raises:
        ValueError: If data cannot be read, has another format, or nothing of it is left.
    """
    everything = sources(
        path, mixture, split=split, subset=subset, limit=limit, task=task, template=template
    )
    train, heldout = divide(
        everything,
        holdout=holdout,
        heldout_path=heldout_path,
        heldout_split=heldout_split,
        seed=seed,
    )
    encode = functools.partial(
        encode_rows,
        tokenizer=tokenizer,
        tokens=tokens,
        loss_on=loss_on,
        too_long=too_long,
        progress=progress,
    )
    parts, reports = _each_encoded(train, encode)
    heldout_parts, heldout_reports = _each_encoded(heldout, encode)
    return Demonstrations(
        parts=parts,
        weights=[source.weight for source in everything],
        report=Report.total(reports),
        heldout=list(itertools.chain.from_iterable(heldout_parts)),
        heldout_report=Report.total(heldout_reports),
    )


def _each_encoded(
    parts: Sequence[Part], encode: Callable[..., tuple[list[Example], Report]]
) -> tuple[list[list[Example]], list[Report]]:
    """Encodes the rows of each source, and refuses a source of which nothing is left."""
    examples, reports = [], []
    for source, rows in parts:
        try:
            kept, report = encode(rows, prepare=source.demonstration)
        except ValueError as error:
            raise ValueError(f"data.path = {source.path!r}: {error}") from error
        if not kept:
            raise ValueError(
                f"Nothing is left of data.path = {source.path!r}: of {report.rows} rows"
                f" {report.too_long} are longer than config.batch.tokens, and"
                f" {report.nothing_to_learn} have no token to train on."
            )
        examples.append(kept)
        reports.append(report)
    return examples, reports


def encode_rows(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    tokens: int,
    loss_on: chat.LossOn = "assistant",
    too_long: TooLong = "drop",
    prepare: Callable[[Row], Row] = lambda row: row,
    progress: Progress | None = None,
) -> tuple[list[Example], Report]:
    """Returns the rows that can be learnt from, encoded, in their order, and what became of all.

    Args:
        rows: In the formats of `chat.pieces`, at least after `prepare`.
        tokenizer: Of the model.
        tokens: The most that an example may have.
        loss_on: Which tokens are trained on.
        too_long: "drop" rows of more than `tokens` tokens (half an answer is a bad example), or
            "truncate" them at their end, or take one for an "error".
        prepare: Makes a row in a known format of one that is not.
        progress: Called with the rows done and the rows there are.

    Raises:
        ValueError: If a row cannot be encoded, naming the first few such rows, or is too long
            where that is an error.
    """
    examples, lengths, wrong, fates = [], [], [], collections.Counter()
    numbers = rows.numbers if isinstance(rows, Rows) else range(len(rows))
    for start in range(0, len(rows), CHUNK):
        cuts = []
        for place in range(start, min(start + CHUNK, len(rows))):
            try:
                cuts.append((place, _cut(prepare(rows[place]), tokenizer, loss_on)))
            except ValueError as error:
                wrong.append(f"row {numbers[place]}: {error}")
            if len(wrong) == SHOWN:
                _refuse(wrong)
        for place, example in _encoded(cuts, tokenizer):
            length = len(example.tokens)
            if length > tokens and too_long == "error":
                wrong.append(
                    f"row {numbers[place]}: {length} tokens, more than batch.tokens = {tokens}."
                )
            lengths.append(length)
            fate = _fate(example, tokens, too_long)
            fates[fate] += 1
            if fate == "truncated":
                example = Example(
                    example.tokens[:tokens].copy(), example.is_response[:tokens].copy()
                )
            if fate in ("kept", "truncated"):
                examples.append(example)
        if progress is not None:
            progress(min(start + CHUNK, len(rows)), len(rows))
    if wrong:
        _refuse(wrong)
    return examples, _report(examples, fates, lengths, stop_ids(tokenizer))


def _cut(row: Row, tokenizer: Tokenizer, loss_on: chat.LossOn) -> list[chat.Piece]:
    """The pieces of a row, all of them text that can be encoded."""
    cut = chat.pieces(row, tokenizer, loss_on=loss_on)
    for piece in cut:
        if not piece.text.isascii():
            piece.text.encode()  # raises on half a surrogate pair, which no tokenizer takes
    return cut


def _encoded(
    cuts: Sequence[tuple[int, list[chat.Piece]]], tokenizer: Tokenizer
) -> Iterator[tuple[int, Example]]:
    """Encodes the pieces of many rows at once."""
    ids = iter(tokenizer.encode_batch([piece.text for _, cut in cuts for piece in cut]))
    for place, cut in cuts:
        yield place, chat.join(cut, list(itertools.islice(ids, len(cut))))


def _fate(example: Example, tokens: int, too_long: TooLong) -> str:
    """What becomes of an example: the name of a count of `Report`."""
    if len(example.tokens) > tokens and too_long == "drop":
        return "too_long"
    if not example.is_response[:tokens].any():
        return "nothing_to_learn"
    return "kept" if len(example.tokens) <= tokens else "truncated"


def _report(
    examples: Sequence[Example],
    fates: Mapping[str, int],
    lengths: Sequence[int],
    stops: Sequence[int],
) -> Report:
    return Report(
        kept=len(examples),
        too_long=fates["too_long"],
        nothing_to_learn=fates["nothing_to_learn"],
        truncated=fates["truncated"],
        stops=sum(int(e.tokens[e.is_response][-1]) in stops for e in examples),
        tokens=sum(len(e.tokens) for e in examples),
        response_tokens=sum(int(e.is_response.sum()) for e in examples),
        lengths=np.array(lengths, np.int64),
    )


def _refuse(wrong: Sequence[str]) -> NoReturn:
    shown = "\n".join(f"- {problem}" for problem in wrong[:SHOWN])
    more = f"\nThere may be more: only the first {SHOWN} are shown." if len(wrong) >= SHOWN else ""
    raise ValueError(f"some rows (counted from 0) cannot be used:\n{shown}{more}")
