"""Measures a policy on a task: samples, grades, and says what it found and how sure it is.

Two kinds of figures stay apart. Outcomes (`pass_at_k`, `best_of_n`) count correct answers; the
`mean_score` may reward the format of a wrong one, and is never called accuracy. What was measured,
and how, is written beside them as the `spec`.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlft_jax import statistics
from rlft_jax.progress import progress
from rlft_jax.rewards import Reward, checked
from rlft_jax.sampling.transcripts import Completion
from rlft_jax.tasks import TASKS
from rlft_jax.tasks.problem import Grade, Problem, lookup
from rlft_jax.training.run_directory import versions

# Completions of a run of problems, of which the first is number so-and-so of all.
Sample = Callable[[Sequence[Problem], int], Sequence[Sequence[Completion]]]
Result = dict[str, Any]

INTERVALS = "95%, percentile bootstrap over problems, 10,000 resamples"
LIKELIHOOD = "sum of the log-probabilities of a completion's tokens, at the sampling temperature"


class Attempt(NamedTuple):
    """One completion, graded.

    Attributes:
        logprob: Of the whole completion, in nats.
        tokens: How many the policy wrote, the one that ended it included.
        reward: What a reward model gives it, if one was asked.
    """

    text: str
    grade: Grade
    score: float
    logprob: float
    tokens: int
    is_finished: bool
    reward: float | None = None


def evaluate(
    problems: Sequence[Problem],
    *,
    task: str,
    sample: Sample,
    decode: Callable[[Sequence[int]], str],
    samples: int,
    scorer: str = "strict",
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
    chunk: int = 64,
    shown: int = 8,
    record: Callable[[Mapping[str, Any]], object] | None = None,
    reward: Reward | None = None,
    description: str = "Evaluating",
) -> Result:
    """Samples and grades every problem; returns figures with intervals, ready for JSON.

    Args:
        problems: What to solve.
        task: Name of the task that grades.
        sample: Gives `samples` completions of each problem. It gets the problems of one chunk
            and the number of the first, so that randomness can go by problem and the result
            does not depend on `chunk`.
        decode: Turns the ids of a completion into its text, without special tokens.
        samples: N, for pass@k and best-of-n up to it.
        scorer: Which of the task's scores `mean_score` is the mean of. Whether an answer is
            correct is always the strict grade's matter.
        seed: Of the bootstrap.
        spec: What the caller knows of the measurement: model, data, temperature and so on.
        chunk: Problems to sample at a time.
        shown: How many problems to keep a completion of, in `completions`.
        record: Called with each completion, its text and grade; for a file of all of them.
        reward: A reward model, to choose the best of n by.
        description: Of the progress bar.

    Raises:
        ValueError: If there are no problems, or there is no such task or scorer.
    """
    tried = attempts(
        problems,
        task=task,
        sample=sample,
        decode=decode,
        scorer=scorer,
        chunk=chunk,
        reward=reward,
        description=description,
    )
    kept: list[Sequence[Attempt]] = []
    completions = []
    for number, (problem, group) in enumerate(zip(problems, tried, strict=True)):
        assert len(group) == samples, (len(group), samples)
        rows = [_row(number, g, problem, attempt) for g, attempt in enumerate(group)]
        if record is not None:
            for row in rows:
                record(row)
        if number < shown:
            completions.append(rows[0])
        # Texts are most of the memory, and no figure needs them.
        kept.append([attempt._replace(text="") for attempt in group])
    measured = {"task": task, "problems": len(problems), "samples": samples}
    measured |= {"scorer": scorer, "seed": seed}
    stated = {"intervals": INTERVALS, "likelihood": LIKELIHOOD, "versions": versions()}
    return {
        "spec": {**(spec or {}), **measured, **stated},
        **figures(kept, [TASKS[task].group(problem) for problem in problems], seed=seed),
        "completions": completions,
    }


def attempts(
    problems: Sequence[Problem],
    *,
    task: str,
    sample: Sample,
    decode: Callable[[Sequence[int]], str],
    scorer: str = "strict",
    chunk: int = 64,
    reward: Reward | None = None,
    description: str = "Evaluating",
) -> Iterator[list[Attempt]]:
    """Yields the graded completions of each problem; the arguments are those of `evaluate`."""
    if not problems:
        raise ValueError("There are no problems to evaluate. Check the data and the limit.")
    grader = lookup("task", task, TASKS)
    score = lookup(f"{task} scorer", scorer, grader.SCORERS)
    chunks = -(-len(problems) // chunk)
    size = -(-len(problems) // chunks)  # all of one size: other shapes would be compiled anew
    with progress(description, len(problems), unit="problems") as advance:
        for first in range(0, len(problems), size):
            posed = problems[first : first + size]
            sampled = sample(posed, first)
            groups = [[decode(c.tokens.tolist()) for c in completions] for completions in sampled]
            rewards = _rewarded(reward, posed, groups)
            for problem, completions, texts in zip(posed, sampled, groups, strict=True):
                yield [
                    Attempt(
                        text,
                        grader.grade(problem, text),
                        float(score(problem, text)),
                        float(np.sum(completion.logprobs, dtype=np.float64)),
                        len(completion.tokens),
                        bool(completion.is_finished),
                        next(rewards),
                    )
                    for text, completion in zip(texts, completions, strict=True)
                ]
            advance(len(posed))


def _rewarded(
    reward: Reward | None, problems: Sequence[Problem], groups: Sequence[Sequence[str]]
) -> Iterator[float | None]:
    """The rewards of all texts of all groups, in order."""
    if reward is None:
        return itertools.repeat(None)
    texts = [text for group in groups for text in group]
    repeated = [problem for problem, group in zip(problems, groups, strict=True) for _ in group]
    return iter(checked("reward_model", reward, repeated, texts).tolist())


def figures(tried: Sequence[Sequence[Attempt]], groups: Sequence[str], *, seed: int) -> Result:
    """All figures of N attempts at each problem, given the kind of each problem."""
    table = lambda value, dtype=float: np.array([[value(a) for a in row] for row in tried], dtype)
    correct_BN = table(lambda attempt: attempt.grade.correct, bool)
    formatted_BN = table(lambda attempt: attempt.grade.formatted)
    likelihood_BN = table(lambda attempt: attempt.logprob)
    answers = [[attempt.grade.answer for attempt in row] for row in tried]
    sizes = statistics.subset_sizes(correct_BN.shape[1])

    def estimated(values: np.ndarray) -> dict[str, float]:
        return statistics.estimate(values, seed=seed)._asdict()

    def by_size(values: Callable[[int], np.ndarray]) -> dict[str, dict[str, float]]:
        return {str(n): estimated(values(n)) for n in sizes}

    def share(value: Callable[[Attempt], float]) -> dict[str, float]:
        return estimated(table(value).mean(-1))

    def of_group(name: str) -> Result:
        chosen = correct_BN[np.array(groups) == name]
        passed = {str(k): estimated(statistics.pass_at_k(chosen, k)) for k in sizes}
        return {"problems": len(chosen), "pass_at_k": passed}

    def best_by(scores_BN: np.ndarray) -> dict[str, dict[str, float]]:
        return by_size(lambda n: statistics.best_by_score(correct_BN, scores_BN, n))

    pass_at_k = by_size(lambda k: statistics.pass_at_k(correct_BN, k))
    reward_BN = table(lambda attempt: attempt.reward)  # all or none have one
    is_rewarded = not np.isnan(reward_BN).any()
    return {
        "pass_at_k": pass_at_k,
        "best_of_n": {
            "verifier": pass_at_k,
            "likelihood": best_by(likelihood_BN),
            "majority": by_size(
                lambda n: statistics.best_by_majority(correct_BN, answers, likelihood_BN, n)
            ),
            **({"reward_model": best_by(reward_BN)} if is_rewarded else {}),
        },
        "mean_score": share(lambda attempt: attempt.score),
        "formatted": estimated(formatted_BN.mean(-1)),
        "parse_failures": estimated(1 - formatted_BN.mean(-1)),
        "truncated": share(lambda attempt: not attempt.is_finished),
        "mean_length": share(lambda attempt: attempt.tokens),
        "groups": {name: of_group(name) for name in sorted(set(groups))},
    }


def with_interval(estimate: Mapping[str, int | float], *, digits: int = 3) -> str:
    """A value and its interval, as tables give them.

    >>> with_interval({"value": 0.25, "low": 0.2, "high": 0.31})
    '0.250 [0.200, 0.310]'
    """
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _row(number: int, sample: int, problem: Problem, attempt: Attempt) -> dict[str, Any]:
    """A completion for people to read."""
    answer = attempt.grade.answer
    return {
        "problem": number,
        "sample": sample,
        "prompt": problem.prompt,
        "completion": attempt.text,
        "correct": attempt.grade.correct,
        "formatted": attempt.grade.formatted,
        "answer": None if answer is None else str(answer),
        "score": attempt.score,
        "logprob": attempt.logprob,
        "tokens": attempt.tokens,
        "is_finished": attempt.is_finished,
        **({} if attempt.reward is None else {"reward": attempt.reward}),
    }
