"""Data sets to imitate, encoded before training starts, so that counts and steps are known."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlft_jax.batch import Example
from rlft_jax.data import chat
from rlft_jax.data.encoding import Progress, TooLong, each_encoded, encode_groups
from rlft_jax.data.mixtures import Source, divide, sources
from rlft_jax.data.report import Report
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Row


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

    def encode(source: Source, rows: Sequence[Row]) -> tuple[list[Example], Report]:
        return encode_rows(
            rows,
            tokenizer,
            tokens=tokens,
            loss_on=loss_on,
            too_long=too_long,
            prepare=source.demonstration,
            progress=progress,
        )

    parts, reports = each_encoded(train, encode)
    heldout_parts, heldout_reports = each_encoded(heldout, encode)
    return Demonstrations(
        parts=parts,
        weights=[source.weight for source in everything],
        report=Report.total(reports),
        heldout=list(itertools.chain.from_iterable(heldout_parts)),
        heldout_report=Report.total(heldout_reports),
    )


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
    cut = lambda row: [chat.pieces(prepare(row), tokenizer, loss_on=loss_on)]
    groups, report = encode_groups(
        rows, cut, tokenizer, tokens=tokens, too_long=too_long, progress=progress
    )
    return [example for (example,) in groups], report
