"""What samples say of a model: pass@k, best-of-N by three ways to choose, and how sure we are.

Every estimator takes N samples of each of B problems and returns one expected value per problem;
their mean over problems is the figure, and `estimate` gives it with its interval.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Estimate(NamedTuple):
    """A mean over problems, and the bootstrap interval around it."""

    value: float
    low: float
    high: float


def pass_at_k(correct: Bool[np.ndarray, "B N"], k: int) -> Float[np.ndarray, " B"]:
    """Chance that at least one of k samples solves the problem, without bias.

    Chen et al. (2021, arXiv:2107.03374), eq. 1: 1 - C(N - c, k) / C(N, k), with c of N samples
    correct. It is also best-of-k when a verifier chooses.

    >>> pass_at_k(np.array([[True, False, False, False]]), 2)
    array([0.5])
    """
    N = _samples(correct, k)
    wrong_B = N - correct.sum(-1)
    # C(wrong, k) / C(N, k) as a product of k shares: no factorial overflows.
    i = np.arange(k)
    shares_Bk = np.maximum(wrong_B[:, None] - i[None], 0) / (N - i)[None]
    return 1 - shares_Bk.prod(-1)


def best_by_score(
    correct: Bool[np.ndarray, "B N"], scores: Float[np.ndarray, "B N"], n: int
) -> Float[np.ndarray, " B"]:
    """Chance that the sample with the highest score of n is correct.

    Exact over all subsets of n of the N samples; equal scores are chosen among at random.

    >>> best_by_score(np.array([[True, False, False]]), np.array([[3.0, 2.0, 1.0]]), 2).round(3)
    array([0.667])
    """
    N = _samples(correct, n)
    # The sample of rank r (0 is the highest) leads a subset if the other n - 1 rank below it:
    # C(N - 1 - r, n - 1) / C(N, n), each from the one before it.
    chance_N = np.zeros(N)
    chance_N[0] = n / N
    for r in range(1, N - n + 1):
        chance_N[r] = chance_N[r - 1] * (N - n - r + 1) / (N - r)
    order_BN = np.argsort(-scores, axis=-1, kind="stable")
    ranked_BN = np.take_along_axis(_shared_by_equals(correct, scores), order_BN, -1)
    return ranked_BN @ chance_N


def best_by_majority(
    correct: Bool[np.ndarray, "B N"],
    answers: Sequence[Sequence[Hashable | None]],
    scores: Float[np.ndarray, "B N"],
    n: int,
) -> Float[np.ndarray, " B"]:
    """Share of votes among n samples that a correct one wins.

    The answer given most often wins, and of equals the one with the highest score; the highest
    score among those who gave it speaks for it. None has no vote: it wins only against itself.
    The mean over the N // n blocks of n consecutive samples: unlike the other estimators, not
    over all subsets.

    >>> right = np.array([[False, True, True]])
    >>> best_by_majority(right, [["7", "8", "8"]], np.array([[0.0, -1.0, -2.0]]), 3)
    array([1.])
    """
    N = _samples(correct, n)
    blocks = (len(correct), N // n, n)
    cut = lambda x: x[:, : N // n * n].reshape(blocks)
    codes_BMn = cut(_codes(answers))
    same_BMnn = codes_BMn[..., None] == codes_BMn[..., None, :]
    votes_BMn = np.where(codes_BMn < 0, 0, same_BMnn.sum(-1))
    is_leading_BMn = votes_BMn == votes_BMn.max(-1, keepdims=True)
    winner_BM1 = np.where(is_leading_BMn, cut(scores), -np.inf).argmax(-1)[..., None]
    return np.take_along_axis(cut(correct), winner_BM1, -1)[..., 0].mean(-1)


def bootstrap(
    values: Float[np.ndarray, " B"],
    *,
    seed: int,
    weights: Float[np.ndarray, " B"] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean, from drawing problems again with replacement.

    It covers the choice of problems and the sampling noise within them; samples of one problem
    are never taken for independent problems. Where all values are equal it has no width: that is
    too little data, not certainty.

    Args:
        values: One per problem.
        seed: Of the draws.
        weights: How much each problem counts in the mean, such as the number of things that its
            value is the mean of; all alike if left out.
        resamples: How often to draw.
        level: Share of the means that the interval holds.

    Raises:
        ValueError: If there are no values.
    """
    B = len(values)
    if B == 0:
        raise ValueError(
            "There are no problems, so there is no mean over them. Evaluate at least one."
        )
    weighing = np.ones(B) if weights is None else weights
    # Drawing B problems is drawing how often each distinct value comes up.
    distinct, counts = np.unique(
        np.stack([values * weighing, weighing], -1), axis=0, return_counts=True
    )
    generator = np.random.default_rng(seed)
    at_once = max(2**22 // len(distinct), 1)
    sums = np.concatenate(
        [
            generator.multinomial(B, counts / B, size=min(at_once, resamples - done)) @ distinct
            for done in range(0, resamples, at_once)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [tail, 1 - tail])
    return float(low), float(high)


def estimate(
    values: Float[np.ndarray, " B"],
    *,
    seed: int,
    weights: Float[np.ndarray, " B"] | None = None,
) -> Estimate:
    """Mean of one value per problem, with its 95% interval; `weights` are those of `bootstrap`."""
    low, high = bootstrap(values, seed=seed, weights=weights)
    return Estimate(float(np.average(values, weights=weights)), low, high)


def subset_sizes(samples: int) -> list[int]:
    """The k and n to report: powers of two, and all samples.

    >>> subset_sizes(12)
    [1, 2, 4, 8, 12]
    """
    powers = [2**i for i in range(samples.bit_length())]
    return sorted({*powers, samples})


def _samples(correct: Bool[np.ndarray, "B N"], n: int) -> int:
    """N, once it is known that n can be drawn from it."""
    N = correct.shape[-1]
    if not 1 <= n <= N:
        raise ValueError(
            f"{n} samples cannot be drawn from the {N} of each problem. Choose 1 to {N}, or"
            " sample more."
        )
    return N


def _shared_by_equals(
    correct: Bool[np.ndarray, "B N"], scores: Float[np.ndarray, "B N"]
) -> Float[np.ndarray, "B N"]:
    """Gives every sample the mean correctness of those with its score."""
    same_BNN = scores[:, :, None] == scores[:, None, :]
    return (same_BNN * correct[:, None, :]).sum(-1) / same_BNN.sum(-1)


def _codes(answers: Sequence[Sequence[Hashable | None]]) -> Int[np.ndarray, "B N"]:
    """Numbers equal answers of a problem equally; None is -1."""

    def row(given: Sequence[Hashable | None]) -> list[int]:
        seen: dict[Hashable, int] = {}
        return [-1 if a is None else seen.setdefault(a, len(seen)) for a in given]

    return np.array([row(given) for given in answers])
