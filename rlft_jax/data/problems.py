"""Problems to sample responses to: prompts that fit, with all that their verifier needs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlft_jax.data import chat
from rlft_jax.data.mixtures import Part, Source, divide, sources
from rlft_jax.data.readers import Rows
from rlft_jax.data.report import Report
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Problem, Row


class Problems(NamedTuple):
    """Problems to train on, part by part of the mixture, and problems held out."""

    parts: list[list[Problem]]
    weights: list[int | float]
    report: Report
    heldout: list[Problem]
    heldout_report: Report


def problems(
    tokenizer: Tokenizer,
    tokens: int,
    seed: int,
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
) -> Problems:
    """Reads the problems that a run trains on; the keyword arguments are `config.data`.

    They mean what they mean for `demonstrations.demonstrations`. Prompts of more than `tokens`
    tokens are dropped and counted. Without a `task` the prompt is the row's `prompt` or `messages`.

    Raises:
        ValueError: If data cannot be read, has no prompts, or no prompt fits.
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
    parts, reports = _each_posed(train, tokenizer, tokens)
    heldout_parts, heldout_reports = _each_posed(heldout, tokenizer, tokens)
    return Problems(
        parts=parts,
        weights=[source.weight for source in everything],
        report=Report.total(reports),
        heldout=list(itertools.chain.from_iterable(heldout_parts)),
        heldout_report=Report.total(heldout_reports),
    )


def fitting(
    posed: Sequence[Problem], tokenizer: Tokenizer, *, tokens: int
) -> tuple[list[Problem], Report]:
    """Returns the problems whose prompts have at most `tokens` tokens, and what became of all."""
    lengths = np.array([len(encode_problem(problem, tokenizer)) for problem in posed], np.int64)
    kept = [problem for problem, n in zip(posed, lengths, strict=True) if n <= tokens]
    return kept, Report(
        kept=len(kept),
        too_long=len(posed) - len(kept),
        nothing_to_learn=0,
        truncated=0,
        stops=0,
        tokens=int(lengths[lengths <= tokens].sum()),
        response_tokens=0,
        lengths=lengths,
    )


def encode_problem(problem: Problem, tokenizer: Tokenizer) -> list[int]:
    """Returns the ids to sample from; the row may have `tools` and `chat_template_kwargs`."""
    return chat.encode_prompt(problem.prompt, tokenizer, columns=problem.columns)


def _each_posed(
    parts: Sequence[Part], tokenizer: Tokenizer, tokens: int
) -> tuple[list[list[Problem]], list[Report]]:
    """Makes problems of the rows of each source, and refuses a source of which nothing is left."""
    posed, reports = [], []
    for source, rows in parts:
        kept, report = fitting(list(_pose(source, rows)), tokenizer, tokens=tokens)
        if not kept:
            raise ValueError(
                f"Nothing is left of data.path = {source.path!r}: all {report.rows} prompts have"
                f" more than {tokens} tokens, the shortest {report.lengths.min()}."
            )
        posed.append(kept)
        reports.append(report)
    return posed, reports


def _pose(source: Source, rows: Sequence[Row]) -> Iterator[Problem]:
    """Yields the problem of each row, or says which row holds none."""
    numbers = rows.numbers if isinstance(rows, Rows) else range(len(rows))
    for number, row in zip(numbers, rows, strict=True):
        try:
            yield source.problem(row)
        except ValueError as error:
            raise ValueError(
                f"data.path = {source.path!r}, row {number} (counted from 0): {error}"
            ) from error
