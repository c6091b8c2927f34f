"""Judges pairs of completions in both orders; what has no verdict is counted and never scored."""

import concurrent.futures
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rlft_jax.judges.answers import Answers, question_key
from rlft_jax.judges.endpoint import Chat, NoAnswerError
from rlft_jax.judges.template import question, read_verdict
from rlft_jax.progress import progress
from rlft_jax.tasks.problem import Message


class Pair(NamedTuple):
    """Two completions of one prompt: the model's, and its opponent's."""

    prompt: str | Sequence[Message]
    completion: str
    opponent: str


class Judgement(NamedTuple):
    """What a judge says of a pair: 1 if the model's completion is better, 0, or 0.5 for a tie.

    Attributes:
        when_first: With the model's completion shown first; None if there is no verdict.
        when_second: With the opponent's shown first.
        failures: How many of the two questions the endpoint did not answer.
        unreadable: How many of its answers held no verdict.
    """

    when_first: float | None
    when_second: float | None
    failures: int = 0
    unreadable: int = 0

    @property
    def preference(self) -> float | None:
        """The mean over both orders; None unless there is a verdict in both."""
        if self.when_first is None or self.when_second is None:
            return None
        return (self.when_first + self.when_second) / 2


def judge(
    pairs: Sequence[Pair],
    chat: Chat,
    answers: Answers,
    *,
    concurrency: int = 8,
    description: str = "Judging",
) -> list[Judgement]:
    """Asks about every pair in both orders, and returns what was said of each.

    Equal completions are a tie that nobody has to be asked about. The first question is asked
    alone, so that a wrong address or key ends it before the others are asked.

    Args:
        pairs: What to judge.
        chat: Whom to ask.
        answers: What was answered before; new answers are added as they come, so that a run that
            was stopped goes on where it was.
        concurrency: Questions to ask at the same time.
        description: Of the progress bar.

    Raises:
        ValueError: If there is no pair, or the endpoint can answer none of the questions.
    """
    if not pairs or concurrency < 1:
        raise ValueError(
            f"{len(pairs)} pairs with concurrency = {concurrency} leave nothing to ask. Give at"
            " least one pair, and a concurrency of 1 or more."
        )
    questions: dict[str, list[Message]] = {}
    asked = [_questions(pair, chat, questions) for pair in pairs]
    open_keys = [key for key in questions if answers.get(key) is None]
    with progress(description, len(open_keys), unit="questions") as advance:
        for key, answer in _asked(open_keys, questions, chat, concurrency):
            if answer is not None:
                answers.put(key, answer)
            advance()
    said = {key: answers.get(key) for key in questions}
    return [
        Judgement(0.5, 0.5) if keys is None else _judgement(*(said[key] for key in keys))
        for keys in asked
    ]


def _questions(
    pair: Pair, chat: Chat, questions: dict[str, list[Message]]
) -> tuple[str, str] | None:
    """Adds the questions about a pair, in both orders, and returns their keys."""
    if pair.completion == pair.opponent:
        return None

    def key_of(first: str, second: str) -> str:
        messages = question(pair.prompt, first, second)
        key = question_key(chat.endpoint.model, messages, chat.endpoint.settings)
        questions[key] = messages
        return key

    return key_of(pair.completion, pair.opponent), key_of(pair.opponent, pair.completion)


def _asked(
    keys: Sequence[str], questions: Mapping[str, Sequence[Message]], chat: Chat, concurrency: int
) -> Iterator[tuple[str, str | None]]:
    """Yields the answers as they come; None where there is none."""

    def ask(key: str) -> str | None:
        try:
            return chat(questions[key])
        except NoAnswerError as problem:
            logging.getLogger(__name__).warning("A question stays unanswered: %s", problem)
            return None

    if not keys:
        return
    yield keys[0], ask(keys[0])
    with concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="judge") as pool:
        waiting = {pool.submit(ask, key): key for key in keys[1:]}
        try:
            for done in concurrent.futures.as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:  # also when somebody presses Ctrl-C: no further question or pause
            chat.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _judgement(when_first: str | None, when_second: str | None) -> Judgement:
    """Reads both answers; the verdict on the second order is about the opponent."""
    given = [answer for answer in (when_first, when_second) if answer is not None]
    first = None if when_first is None else read_verdict(when_first)
    opponent_first = None if when_second is None else read_verdict(when_second)
    return Judgement(
        first,
        None if opponent_first is None else 1 - opponent_first,
        failures=2 - len(given),
        unreadable=sum(1 for answer in given if read_verdict(answer) is None),
    )
