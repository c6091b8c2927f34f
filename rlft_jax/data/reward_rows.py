"""Rows to learn scores from: pairs with the better text first, or single texts with a grade."""

import collections
import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from rlft_jax.data.bad_rows import columns_of, map_rows
from rlft_jax.data.encoding import CHUNK, Progress
from rlft_jax.data.formatting import Answered, Formatted, Formatter
from rlft_jax.data.pairs import is_chat, pair_of, prompt_key
from rlft_jax.data.prompt_split import Prompt
from rlft_jax.data.report import Report
from rlft_jax.tasks.problem import Message, Row
from rlft_jax.texts import Text, Texts

# UltraFeedback's grades of the two responses of a pair.
CHOSEN_SCORE, REJECTED_SCORE = "score_chosen", "score_rejected"


class RewardExample(NamedTuple):
    """What a reward model learns from, or is measured on, at a time.

    Attributes:
        texts: A pair, the better text first; or one text, which has a target.
        characters: Of each response.
        prompt: What examples have in common that must not be on two sides of a split.
        source: Where the row says it is from.
        target: The score to learn.
        margin: How much better the first text is.
    """

    texts: tuple[Text, ...]
    characters: tuple[int, ...]
    prompt: str
    source: str | None = None
    target: float | None = None
    margin: float | None = None


class _Draft(NamedTuple):
    """An example before it is encoded."""

    answered: tuple[Answered, ...]
    source: str | None
    target: float | None = None
    margin: float | None = None
    is_equal: bool = False


def pair_examples(
    rows: Sequence[Row],
    formatter: Formatter,
    *,
    margin_column: str | None = None,
    source_column: str | None = None,
    progress: Progress | None = None,
) -> tuple[list[RewardExample], Report]:
    """Returns pairs, and what became of all rows: equally good ones teach nothing and are dropped.

    Args:
        rows: In the formats of `pair_of`. Two responses are equally good if they are the same, or
            the columns score_chosen and score_rejected are.
        margin_column: Where rows say how much better the first one is.
        source_column: Where rows say what they are from; `meta.subset` is a column in a column.
        progress: Called with the rows done and the rows there are.

    Raises:
        ValueError: If rows are no pairs, naming the first few.
    """

    def draft(row: Row) -> list[_Draft]:
        pair = pair_of(row)
        scores = row.get(CHOSEN_SCORE), row.get(REJECTED_SCORE)
        has_equal_scores = scores[0] is not None and scores[0] == scores[1]
        return [
            _Draft(
                ((pair.prompt, pair.chosen), (pair.prompt, pair.rejected)),
                source_of(row, source_column),
                margin=None if margin_column is None else _number(row, margin_column),
                is_equal=has_equal_scores or pair.chosen == pair.rejected,
            )
        ]

    return _examples(rows, formatter, draft, progress)


def graded_examples(
    rows: Sequence[Row],
    formatter: Formatter,
    *,
    score_column: str = "score",
    source_column: str | None = None,
    progress: Progress | None = None,
) -> tuple[list[RewardExample], Report]:
    """Returns single texts with the scores to learn; the report counts texts, not rows.

    Args:
        rows: In the formats of `answered_of`, with a score; or pairs with the columns score_chosen
            and score_rejected, which are two texts each.
        score_column: Where rows that are no such pairs have their score.
        source_column: As for `pair_examples`.

    Raises:
        ValueError: If rows have no response or no score, naming the first few.
    """

    def draft(row: Row) -> list[_Draft]:
        source = source_of(row, source_column)
        if row.get(CHOSEN_SCORE) is None:
            return [_Draft((answered_of(row),), source, target=_number(row, score_column))]
        prompt, chosen, rejected, _ = pair_of(row)
        graded = ((chosen, CHOSEN_SCORE), (rejected, REJECTED_SCORE))
        return [
            _Draft(((prompt, response),), source, target=_number(row, column))
            for response, column in graded
        ]

    return _examples(rows, formatter, draft, progress)


def graded_prompt(row: Row) -> Prompt:
    """The prompt of a row that `graded_examples` takes."""
    return pair_of(row).prompt if row.get(CHOSEN_SCORE) is not None else answered_of(row)[0]


def answered_of(row: Row) -> Answered:
    """Returns the prompt and the response of a row that holds one of each.

    `prompt` (text or a chat) or `messages` with a `completion` (text or turns), or `messages` that
    end with the assistant's turn.

    Raises:
        ValueError: If the row holds something else.

    >>> answered_of({"prompt": "2 + 2", "completion": "4"})
    ('2 + 2', '4')
    """
    prompt: Any = row.get("messages") if row.get("prompt") is None else row["prompt"]
    completion: Any = row.get("completion")
    if completion is None and is_chat(prompt) and prompt[-1].get("role") == "assistant":
        prompt, completion = prompt[:-1], prompt[-1:]
    if not (_is_side(prompt) and _is_side(completion)):
        raise ValueError(
            f"The columns {columns_of(row)} hold no prompt with its response. Needed are"
            " `prompt` or `messages` with a `completion`, or `messages` that end with a turn of"
            " the assistant."
        )
    return prompt, completion


def texts_of(examples: Sequence[RewardExample]) -> Texts:
    """Returns what a batch is packed from; either all examples have a target (a margin) or none."""
    targets = [example.target for example in examples if example.target is not None]
    margins = [example.margin for example in examples if example.margin is not None]
    assert len(targets) in (0, len(examples)), (len(targets), len(examples))
    assert len(margins) in (0, len(examples)), (len(margins), len(examples))
    return Texts.of([example.texts for example in examples])._replace(
        targets=np.array(targets, np.float32)[:, None] if targets else None,
        margins=np.array(margins, np.float32) if margins else None,
    )


def characters(response: str | Sequence[Message]) -> int:
    """Returns the length of a response, text or turns."""
    if isinstance(response, str):
        return len(response)
    return sum(len(turn.get("content") or "") for turn in response)


def source_of(row: Row, column: str | None) -> str | None:
    """Returns where a row says it is from; `meta.subset` is a column in a column."""
    return None if column is None else str(_value(row, column))


def _examples(
    rows: Sequence[Row],
    formatter: Formatter,
    draft: Callable[[Row], list[_Draft]],
    progress: Progress | None,
) -> tuple[list[RewardExample], Report]:
    """Encodes drafts, many rows at once, and counts what becomes of them."""
    examples: list[RewardExample] = []
    lengths: list[int] = []
    fates = collections.Counter[str]()
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        drafts = list(itertools.chain.from_iterable(map_rows(draft, chunk)))
        for one, made in _formatted(drafts, formatter, chunk, draft):
            lengths.append(max(text.length for text in made))
            fate = _fate(one, made)
            fates[fate] += 1
            if fate in ("kept", "truncated"):
                examples.append(_example(one, made))
        if progress is not None:
            progress(min(start + CHUNK, len(rows)), len(rows))
    return examples, Report(
        kept=len(examples),
        too_long=fates["too_long"],
        nothing_to_learn=0,
        truncated=fates["truncated"],
        stops=0,
        tokens=sum(len(text.tokens) for example in examples for text in example.texts),
        response_tokens=0,
        lengths=np.array(lengths, np.int64),
        equal=fates["equal"],
    )


def _formatted(
    drafts: Sequence[_Draft],
    formatter: Formatter,
    rows: Sequence[Row],
    draft: Callable[[Row], list[_Draft]],
) -> list[tuple[_Draft, list[Formatted]]]:
    """What becomes of the texts of each draft."""
    try:
        made = iter(formatter.formatted([text for one in drafts for text in one.answered]))
    except ValueError:
        # Once more, one by one, for the numbers of the rows that did it.
        map_rows(lambda row: [formatter.formatted(one.answered) for one in draft(row)], rows)
        raise
    return [(one, list(itertools.islice(made, len(one.answered)))) for one in drafts]


def _fate(draft: _Draft, made: Sequence[Formatted]) -> str:
    """What becomes of a draft: the name of a count of `Report`."""
    if draft.is_equal:
        return "equal"
    if any(one.text is None for one in made):
        return "too_long"
    return "truncated" if any(one.is_cut for one in made) else "kept"


def _example(draft: _Draft, made: Sequence[Formatted]) -> RewardExample:
    return RewardExample(
        tuple(one.text for one in made if one.text is not None),
        tuple(characters(response) for _, response in draft.answered),
        prompt_key(draft.answered[0][0]),
        draft.source,
        draft.target,
        draft.margin,
    )


def _number(row: Row, column: str) -> float:
    value = _value(row, column)
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"The column {column!r} holds {repr(value)[:80]}, not a finite number.")
    return float(value)


def _value(row: Row, column: str) -> Any:
    """What is in a column, or in a column of a column."""
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping) or value.get(name) is None:
            raise ValueError(f"There is no column {column!r}: the row has {', '.join(row)}.")
        value = value[name]
    return value


def _is_side(value: Any) -> TypeGuard[str | Sequence[Message]]:
    return isinstance(value, str) or is_chat(value)
