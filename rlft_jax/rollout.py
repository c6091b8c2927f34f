"""A source of batches: the policy's own responses to problems, rewarded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from rlft_jax.batch import Example, Responses
from rlft_jax.sampling.transcripts import Completion
from rlft_jax.tasks.problem import Problem
from rlft_jax.training.loop import Draw
from rlft_jax.training.processes import gathered_everywhere
from rlft_jax.training.step import Params

# Responses of a rollout kept for people to read.
SHOWN = 8

# Scores every token of given responses under some policy.
Score = Callable[[Params, Responses], Float[np.ndarray, "B G T"]]
Rewarded = tuple[Float[np.ndarray, " N"], Mapping[str, Float[np.ndarray, " N"]]]


@runtime_checkable
class Stream(Protocol):
    """An endless stream of tuples of problems, with a position to save."""

    def __next__(self) -> tuple[Problem, ...]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


class Engine(NamedTuple):
    """What a rollout is done with: all that knows of models, tokenizers and devices.

    Attributes:
        encode: Ids of a problem's prompt.
        decode: Text of a completion's ids, without the stop token.
        sample: Completions of prompts, `responses` each, by parameters, ids and the numbers
            that their randomness comes from.
        reward: Rewards of responses to problems, in all and by name.
        old_score: Scores under the policy before the first update; the sampler's stand in if None.
        reference_score: Scores under the reference policy; None where nothing asks for it.
        select: Which responses are learned from; all where None.
        advantages: From rewards, response masks, old and reference log-probabilities; None where
            responses are compared otherwise.
    """

    encode: Callable[[Problem], list[int]]
    decode: Callable[[Sequence[int]], str]
    sample: Callable[[Params, list[list[int]], int, list[int]], list[list[Completion]]]
    reward: Callable[[Sequence[Problem], Sequence[str]], Rewarded]
    select: Callable[[Responses], Responses] | None = None
    advantages: Callable[..., Float[np.ndarray, "B G T"]] | None = None
    old_score: Score | None = None
    reference_score: Score | None = None


class Sampled(NamedTuple):
    """Responses that have not been rewarded yet.

    Attributes:
        position: Where the stream of problems stood before these.
    """

    position: dict[str, Any]
    problems: tuple[Problem, ...]
    prompts: list[list[int]]
    groups: list[list[Completion]]


class Rollout:
    """Samples responses to the problems of a batch and rewards them; then deals them out.

    A rollout lasts for `updates` x `minibatches` steps. What is left of it is part of the state,
    and so is what has been sampled for the next, so a run may stop between any two of them. Which
    prompts share a minibatch does not depend on the number of processes.

    Args:
        problems: This process' problems of each rollout, in batches.
        engine: What samples, rewards and scores.
        process: Number of this process, which takes turns with the others.
        processes: How many there are.
        responses: Sampled for each problem; the paper's k.
        updates: Times that a rollout is learned from.
        minibatches: Steps that share a rollout; must divide its problems.
        mask_truncated: Whether nothing is learned from responses that were cut off.
        missing_stop_penalty: Reward lost by responses that were cut off.
        length_penalty: Reward lost per token of a response.
        normalize_rewards: Whether rewards are brought to mean 0 and deviation 1, as all rewards of
            the run so far have them, before penalties.
        overlap: Whether the next rollout is sampled before the last step of this one, not after it,
            so that rewards on the host are computed while the devices do that step. It is then one
            step off-policy (Noukhovitch et al., 2024, arXiv:2410.18252). The last step of a run
            samples one, too, for a longer run to go on with.
    """

    def __init__(
        self,
        problems: Stream,
        engine: Engine,
        process: int = 0,
        processes: int = 1,
        *,
        responses: int = 8,
        updates: int = 1,
        minibatches: int = 1,
        mask_truncated: bool = False,
        missing_stop_penalty: float = 0.0,
        length_penalty: float = 0.0,
        normalize_rewards: bool = False,
        overlap: bool = False,
    ):
        self.table: list[dict[str, Any]] = []  # the last rollout's texts, for people to read
        self._problems, self._engine = problems, engine
        self._process, self._processes = process, processes
        self._group_size, self._updates, self._minibatches = responses, updates, minibatches
        self._mask_truncated, self._normalizes = mask_truncated, normalize_rewards
        self._overlaps = overlap
        self._stop_penalty, self._length_penalty = missing_stop_penalty, length_penalty
        self._seen = Moments()
        self._rollouts, self._used = 0, 0
        self._ahead: Sampled | None = None
        self._pending: Responses | None = None
        self._metrics: dict[str, np.float32] = {}  # of the rollout in use

    def next(self, params: Params, step: int) -> Draw:
        """The next minibatch, of a new rollout by `params` when the last one is used up.

        Whatever a reward raises, what it was to reward is not lost.
        """
        if self._pending is None:
            self._ahead = self._ahead or self._sampled(params)
            self._pending, self._metrics = self._rewarded(params, self._ahead)
            self._ahead = None
        prompts, number = len(self._pending.tokens), self._used % self._minibatches
        assert prompts % self._minibatches == 0, (prompts, self._minibatches)
        # Dealt in turns: a process' first prompt goes to minibatch 0, whichever process it is.
        part = _each(self._pending, lambda field: field[number :: self._minibatches])
        self._used += 1
        if self._used == self._updates * self._minibatches:
            self._pending, self._used = None, 0
            if self._overlaps:
                self._ahead = self._sampled(params)
        return Draw(part, self._metrics)

    def state(self) -> dict[str, Any]:
        """Position among the problems, what is left of the last rollout, and of the next."""
        fields = {} if self._pending is None else self._pending._asdict()
        ahead = self._ahead
        return {
            "problems": self._problems.get_state() if ahead is None else ahead.position,
            "ahead": {} if ahead is None else flattened(ahead.groups),
            "rollouts": self._rollouts,
            "seen": list(self._seen),
            "used": self._used,
            "pending": {name: field for name, field in fields.items() if field is not None},
            "metrics": self._metrics,
            "table": self.table,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on exactly where `state` was taken."""
        self._problems.set_state(state["problems"])
        self._ahead = None
        if state["ahead"]:
            self._ahead = self._posed()._replace(groups=unflattened(**state["ahead"]))
        self._rollouts, self._used = state["rollouts"], state["used"]
        self._seen = Moments(*state["seen"])
        self._pending = Responses(**state["pending"]) if state["pending"] else None
        self._metrics = state["metrics"]
        self.table = state["table"]

    def _posed(self) -> Sampled:
        """The next problems, without responses."""
        position, problems = self._problems.get_state(), next(self._problems)
        return Sampled(position, problems, [self._engine.encode(p) for p in problems], [])

    def _sampled(self, params: Params) -> Sampled:
        """The next problems, with responses."""
        posed = self._posed()
        # Numbered over all processes, so that their number does not matter.
        first = (self._rollouts * self._processes + self._process) * len(posed.problems)
        numbers = [(first + i) % 2**32 for i in range(len(posed.problems))]
        groups = self._engine.sample(params, posed.prompts, self._group_size, numbers)
        return posed._replace(groups=groups)

    def _rewarded(
        self, params: Params, sampled: Sampled
    ) -> tuple[Responses, dict[str, np.float32]]:
        engine, G = self._engine, self._group_size
        _, problems, prompts, groups = sampled
        texts = [engine.decode(c.tokens.tolist()) for group in groups for c in group]
        rewards, parts = engine.reward([p for p in problems for _ in range(G)], texts)
        rewards = rewards.reshape(-1, G).astype(np.float32)
        is_finished = np.array([[c.is_finished for c in group] for group in groups])

        lengths = np.array([[len(c.tokens) for c in group] for group in groups])
        seen = self._seen.with_more(gathered_everywhere(rewards))
        shaped = self._shaped(seen, rewards, lengths, is_finished)
        responses = gathered(prompts, groups)._replace(rewards=shaped)
        if self._mask_truncated:
            is_response = responses.is_response & is_finished[..., None]
            responses = responses._replace(is_response=is_response)
        if engine.select is not None:
            responses = engine.select(responses)
        if engine.reference_score is not None:
            scores = engine.reference_score(params, responses)
            responses = responses._replace(reference_logprobs=scores)
        if engine.advantages is not None:
            old = responses.sampled_logprobs
            if engine.old_score is not None:
                old = engine.old_score(params, responses)
            responses = responses._replace(old_logprobs=old)
            advantages = engine.advantages(
                responses.rewards,
                responses.is_response,
                responses.old_logprobs,
                responses.reference_logprobs,
                gathered_everywhere,
            )
            responses = responses._replace(advantages=advantages)
        if self._updates * self._minibatches == 1:
            # The only update compares the policy with itself: then the ratio is exactly 1.
            responses = responses._replace(old_logprobs=None)
        self._rollouts, self._seen = self._rollouts + 1, seen
        # Of a selection it is not known whose the advantages are.
        advantages = responses.advantages if engine.select is None else None
        self.table = _table(problems, texts, shaped, parts, advantages)[:SHOWN]
        repeated = np.array([[repetition(c.tokens.tolist()) for c in group] for group in groups])
        metrics = rollout_metrics(
            gathered_everywhere(shaped),
            gathered_everywhere(lengths),
            gathered_everywhere(is_finished),
            gathered_everywhere(repeated),
            {name: gathered_everywhere(values) for name, values in parts.items()},
        )
        return responses, metrics

    def _shaped(
        self,
        seen: "Moments",
        rewards: Float[np.ndarray, "B G"],
        lengths: Int[np.ndarray, "B G"],
        is_finished: Bool[np.ndarray, "B G"],
    ) -> Float[np.ndarray, "B G"]:
        """Rewards as they are learned from.

        Args:
            seen: All of the run so far, these among them.
        """
        if self._normalizes:
            rewards = ((rewards - seen.mean) / (seen.deviation + 1e-6)).astype(np.float32)
        lost = np.float32(self._length_penalty) * lengths.astype(np.float32)
        return rewards - np.float32(self._stop_penalty) * ~is_finished - lost


class Moments(NamedTuple):
    """Mean and deviation of all numbers so far (Chan et al., 1979, eq. 1.5).

    >>> moments = Moments().with_more(np.array([1.0, 2.0])).with_more(np.array([6.0]))
    >>> float(moments.mean), round(float(moments.deviation), 4)
    (3.0, 2.6458)
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # of the differences from the mean

    def with_more(self, values: Float[np.ndarray, "..."]) -> "Moments":
        """These numbers and some more."""
        more, count = values.astype(np.float64), self.count + values.size
        shift = float(more.mean()) - self.mean
        between = shift**2 * self.count * values.size / count
        squares = self.squares + float(((more - more.mean()) ** 2).sum()) + between
        return Moments(count, self.mean + shift * values.size / count, squares)

    @property
    def deviation(self) -> float:
        """Standard deviation; 0 of fewer than two numbers."""
        return float(np.sqrt(self.squares / max(self.count - 1, 1)))


def repetition(tokens: Sequence[int], size: int = 4) -> float:
    """The share of a text's runs of `size` tokens that it has had before.

    >>> repetition([1] * 8)
    0.8
    """
    runs = list(zip(*(tokens[start:] for start in range(size))))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def gathered(prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Completion]]) -> Responses:
    """Prompts and completions as padded responses, with the sampler's log-probabilities."""
    examples = [
        [
            Example(
                np.concatenate([prompt, c.tokens]).astype(np.int32),
                np.arange(len(prompt) + len(c.tokens)) >= len(prompt),
            )
            for c in group
        ]
        for prompt, group in zip(prompts, groups)
    ]
    responses = Responses.of(examples)
    sampled = np.zeros(responses.tokens.shape, np.float32)
    sampled[responses.is_response] = np.concatenate([c.logprobs for g in groups for c in g])
    return responses._replace(sampled_logprobs=sampled)


def flattened(groups: Sequence[Sequence[Completion]]) -> dict[str, np.ndarray]:
    """Completions as arrays, end to end."""
    completions = [c for group in groups for c in group]
    return {
        "tokens": np.concatenate([c.tokens for c in completions]),
        "logprobs": np.concatenate([c.logprobs for c in completions]),
        "lengths": np.array([[len(c.tokens) for c in group] for group in groups]),
        "is_finished": np.array([[c.is_finished for c in group] for group in groups]),
    }


def unflattened(
    tokens: Int[np.ndarray, " n"],
    logprobs: Float[np.ndarray, " n"],
    lengths: Int[np.ndarray, "B G"],
    is_finished: Bool[np.ndarray, "B G"],
) -> list[list[Completion]]:
    """The inverse of `flattened`."""
    ends = lengths.cumsum()[:-1]
    parts = zip(np.split(tokens, ends), np.split(logprobs, ends), is_finished.ravel().tolist())
    completions = [Completion(*part) for part in parts]
    G = lengths.shape[1]
    return [completions[start : start + G] for start in range(0, len(completions), G)]


def rollout_metrics(
    rewards: Float[np.ndarray, "B G"],
    lengths: Int[np.ndarray, "B G"],
    is_finished: Bool[np.ndarray, "B G"],
    repeated: Float[np.ndarray, "B G"],
    parts: Mapping[str, Float[np.ndarray, " N"]],
) -> dict[str, np.float32]:
    """What a rollout was like, under TRL's names. Deviations are over all of its responses."""
    finished = lengths[is_finished] if is_finished.any() else np.zeros(1)
    found = {
        "reward": rewards.mean(dtype=np.float64),
        "reward_std": rewards.std(ddof=1, dtype=np.float64),
        "frac_reward_zero_std": (rewards.max(-1) == rewards.min(-1)).mean(),
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/mean_terminated_length": finished.mean(),
        "completions/min_terminated_length": finished.min(),
        "completions/max_terminated_length": finished.max(),
        "completions/clipped_ratio": (~is_finished).mean(),
        "completions/repetition": repeated.mean(),
        **{f"rewards/{name}/mean": values.mean() for name, values in parts.items()},
        **{f"rewards/{name}/std": values.std(ddof=1) for name, values in parts.items()},
    }
    return {name: np.float32(value) for name, value in found.items()}


def _each(responses: Responses, function: Callable[[np.ndarray], np.ndarray]) -> Responses:
    fields = responses._asdict().items()
    return Responses(**{name: function(field) for name, field in fields if field is not None})


def _table(
    problems: Sequence[Problem],
    texts: Sequence[str],
    rewards: np.ndarray,
    parts: Mapping[str, np.ndarray],
    advantages: np.ndarray | None,
) -> list[dict[str, Any]]:
    """Rows to read: every response with its problem, rewards and advantage."""
    G = rewards.shape[1]
    columns: dict[str, np.ndarray] = {"reward": rewards.ravel()}
    columns |= {f"rewards/{name}": values for name, values in parts.items()}
    if advantages is not None:
        largest = np.abs(advantages).argmax(-1, keepdims=True)
        columns["advantage"] = np.take_along_axis(advantages, largest, axis=-1).ravel()
    return [
        {
            "prompt": problems[i // G].prompt,
            "completion": text,
            **{name: float(values[i]) for name, values in columns.items()},
        }
        for i, text in enumerate(texts)
    ]
