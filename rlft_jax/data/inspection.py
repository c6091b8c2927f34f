"""What data becomes, for people to look at before they train on it."""

import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlft_jax.batch import Example
from rlft_jax.data.problems import encode_problem
from rlft_jax.data.report import Report
from rlft_jax.data.reward_rows import RewardExample
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Problem

# Neighbouring tokens alternate between two shades, so that their ends can be seen.
RESPONSE = ("\x1b[30;42m", "\x1b[30;102m")
GIVEN = ("\x1b[37m", "\x1b[90m")
RESET = "\x1b[0m"
# Tokens of an example to show: its start and its end.
SHOWN = 600


def examples_of(item: Any, tokenizer: Tokenizer) -> list[Example]:
    """Returns what there is to show of an item of any data set: its prompt, response or texts."""
    if isinstance(item, Example):
        return [item]
    if isinstance(item, Problem):
        return [_given(np.array(encode_problem(item, tokenizer), np.int32))]
    if isinstance(item, RewardExample):
        return [_given(text.tokens) for text in item.texts]
    return list(item)  # a chosen and a rejected one


def _given(tokens: np.ndarray) -> Example:
    return Example(tokens, np.zeros(len(tokens), bool))


def describe(
    report: Report,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    count: int = 3,
    colour: bool | None = None,
) -> str:
    """Returns the report and the first `count` examples, with what is trained on marked.

    Args:
        report: What became of all rows.
        examples: Encoded rows.
        tokenizer: That encoded them.
        count: Examples to show.
        colour: Whether to mark with colours, or with brackets; by default colours are for terminals
            whose owner has not set NO_COLOR.
    """
    by_default = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    painted = by_default if colour is None else colour
    legend = (
        f"{RESPONSE[0]}trained on{RESET} {GIVEN[0]}given{RESET}; shades alternate between tokens"
        if painted
        else "⟦trained on⟧ given; | between tokens"
    )
    shown = [
        f"Example {number}: {len(example.tokens)} tokens,"
        f" {int(example.is_response.sum())} trained on\n"
        + marked(example, tokenizer, colour=painted)
        for number, example in enumerate(examples[:count], start=1)
    ]
    return "\n\n".join([summary(report), *([legend] if shown else []), *shown])


def summary(report: Report) -> str:
    """Returns the counts of a report as a few lines of text."""
    share = lambda part, whole: f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"
    lengths = ", ".join(
        f"{'longest' if p == 100 else f'{p}%'} {n:,}" for p, n in report.percentiles.items()
    )
    lines = [
        ("rows", f"{report.rows:,}"),
        ("kept", share(report.kept, report.rows)),
        ("dropped, too long", share(report.too_long, report.rows)),
        ("dropped, nothing to learn", share(report.nothing_to_learn, report.rows)),
        *(
            (name, share(count, report.rows))
            for name, count in (
                ("dropped, equal responses", report.equal),
                ("left out, later turns", report.later_turns),
                ("left out, held-out prompt", report.shared_prompts),
            )
            if count  # only pairs have these
        ),
        ("kept, but truncated", share(report.truncated, report.rows)),
        ("tokens before all that", lengths),
        ("tokens kept", f"{report.tokens:,}"),
        ("tokens trained on", share(report.response_tokens, report.tokens)),
        ("stop token trained on", _stop(report)),
    ]
    return "\n".join(f"{name:<26} {value}" for name, value in lines)


def marked(example: Example, tokenizer: Tokenizer, *, colour: bool) -> str:
    """Returns an example's text with token ends visible and the policy's tokens marked."""
    runs = itertools.groupby(range(len(example.tokens)), key=lambda t: bool(example.is_response[t]))
    return "".join(
        _run(example.tokens[np.array([*places])], tokenizer, is_response, colour)
        for is_response, places in runs
    )


def _run(ids: np.ndarray, tokenizer: Tokenizer, is_response: bool, colour: bool) -> str:
    """A run of tokens that are all trained on, or all given."""
    texts = [_visible(tokenizer.decode([id])) for id in ids]
    if len(texts) > SHOWN:
        hidden = f" … {len(texts) - SHOWN:,} more tokens … "
        texts = [*texts[: SHOWN // 2], hidden, *texts[-SHOWN // 2 :]]
    if not colour:
        return f"⟦{'|'.join(texts)}⟧" if is_response else "|".join(texts)
    shades = itertools.cycle(RESPONSE if is_response else GIVEN)
    # Colours end before a line does, or terminals paint the rest of it.
    text = "".join(f"{shade}{text}" for shade, text in zip(shades, texts))
    return text.replace("\n", f"{RESET}\n") + RESET


def _visible(text: str) -> str:
    """Text with its line ends marked, and no control character that would act on the terminal."""
    escaped = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return "".join(escaped).replace("\n", "⏎\n")


def _stop(report: Report) -> str:
    if not report.response_tokens:
        return "no token is trained on: these are prompts, or texts to score"
    if report.stops == report.kept:
        return "yes"
    if not report.stops:
        return "NO: the model will not learn when to stop"
    return f"in {report.stops:,} of {report.kept:,}; the others end without one"
