"""Reward models as rewards of what a policy writes."""

import bisect
import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from rlft_jax.data.formatting import Answered, Formatter
from rlft_jax.models.qwen2 import Compute
from rlft_jax.progress import say
from rlft_jax.rewards import LearnedReward, Reward, RewardError
from rlft_jax.runs.scoring import Scorer, plan_scorer
from rlft_jax.tasks.problem import Message, Problem
from rlft_jax.texts import Text
from rlft_jax.training.processes import together
from rlft_jax.training.step import Params


def plan_scorers(learned: Mapping[str, LearnedReward], mesh: Mesh) -> dict[str, Scorer]:
    """Reads what the reward models of a run are, with their parameters cut up over its mesh.

    Raises:
        ValueError: If one of them is no reward model, or does not fit the mesh.
    """
    scorers = {}
    for name, (model, dtype, rows) in learned.items():
        with _naming(name):
            scorers[name] = plan_scorer(model, mesh=mesh, compute=Compute(dtype=dtype), rows=rows)
    return scorers


def check_prompts(scorers: Mapping[str, Scorer], problems: Sequence[Problem]) -> None:
    """Refuses problems that a reward model cannot read, or that leave no room for a response.

    Raises:
        ValueError: If there are some.
    """
    for name, scorer in scorers.items():
        with _naming(name):
            _check_room(scorer.formatter, problems)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Tells which reward model is wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"config.reward.models.{name}: {error}") from error


def reward_of(name: str, scorer: Scorer, params: Params) -> Reward:
    """The scores of a reward model, as a reward.

    Says when responses are too long for it, but not again before there are more of them.
    """
    scores, formatter, most = scorer.scores(params), scorer.formatter, 0

    def readable(problems: Sequence[Problem], responses: Sequence[str]) -> list[Text]:
        nonlocal most
        answered = [(problem.prompt, text) for problem, text in zip(problems, responses)]
        try:
            texts, cut = fitted(formatter, answered)
        except ValueError as error:
            raise RewardError(
                f"The reward model {name!r} cannot read a response: {error}"
            ) from error
        if cut > most:
            most = cut
            say(
                f"{cut} of {len(texts)} responses are too long for the {formatter.tokens} tokens of"
                f" the reward model {name!r}, which reads them without their end."
            )
        return texts

    def reward(problems: Sequence[Problem], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        return scores(together(lambda: readable(problems, responses), RewardError))

    return reward


def described(name: str, scorer: Scorer) -> str:
    """What a reward model reads, in a sentence."""
    formatter = scorer.formatter
    cut = {"cut": "the start of their prompt", "drop": "the end of their response"}
    return (
        f"Reward {name}: {scorer.origin.model}, which reads prompt and response as"
        f" {formatter.preset}, at most {formatter.tokens} tokens; longer ones lose"
        f" {cut[formatter.too_long]}."
    )


def fitted(formatter: Formatter, answered: Sequence[Answered]) -> tuple[list[Text], int]:
    """Texts of prompts with plain responses, and how many responses lost their end to fit.

    A policy may write anything, such as a line of dashes that is a token of its own and hundreds
    of the reward model's. No reward at all would end the run.
    """
    made = [one.text for one in formatter.formatted(answered)]
    texts = [
        _without_end(formatter, *one) if text is None else text
        for text, one in zip(made, answered, strict=True)
    ]
    return texts, made.count(None)


def _without_end(
    formatter: Formatter, prompt: str | Sequence[Message], response: str | Sequence[Message]
) -> Text:
    """A text with as much of the beginning of a plain response as fits."""
    upto = lambda end: formatter.formatted([(prompt, response[:end])])[0].text
    ends = range(len(response) + 1)
    text = upto(bisect.bisect_left(ends, True, key=lambda end: upto(end) is None) - 1)
    assert text is not None, "no room for any response"
    return text


def _check_room(formatter: Formatter, problems: Sequence[Problem]) -> None:
    made = formatter.formatted([(problem.prompt, "") for problem in problems])
    over = [one.length for one in made if one.text is None]
    if over:
        why = (
            "even with all of it cut that may be"
            if formatter.too_long == "cut"
            else "and it was trained to drop longer texts, not to cut them"
        )
        raise ValueError(
            f"{len(over)} of {len(made)} prompts, of up to {max(over)} tokens, do not fit into the"
            f" {formatter.tokens} tokens that it reads, {why}. Leave them out, or use a reward"
            " model that reads more."
        )
