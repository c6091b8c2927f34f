"""What preferences between a model and its opponent say: win rate, also at equal length.

Preferences are 1 where the model's completion is better, 0 where the opponent's is, 0.5 for ties.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlft_jax.statistics import Estimate

# Keeps the weight of the length finite where length alone explains all preferences; beside the
# evidence of a hundred prompts it is nothing.
_RIDGE = 0.1
_RESAMPLES = 2_000
_STEPS, _LONGEST_STEP, _TOLERANCE = 500, 1.0, 1e-9


class LengthControlled(NamedTuple):
    """A win rate at equal length, and what length is worth.

    Attributes:
        win_rate: With its 95% interval.
        length_weight: Of tanh(difference / spread), in log odds: above 0, longer ones win.
        spread: Standard deviation of the difference in length.
    """

    win_rate: Estimate
    length_weight: float
    spread: float


def preferences_by_score(
    scores: Float[np.ndarray, " B"], opponent_scores: Float[np.ndarray, " B"]
) -> Float[np.ndarray, " B"]:
    """Preferences of a reward model, by the sign of the difference of its scores.

    >>> preferences_by_score(np.array([2.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0]))
    array([1. , 0.5, 0. ])

    Raises:
        ValueError: If a score is not finite.
    """
    finite = np.isfinite(scores) & np.isfinite(opponent_scores)
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} of {len(finite)} prompts have a score that is not finite, the first"
            f" is prompt {int((~finite).argmax())}. Look for overflow in the reward model."
        )
    return (np.sign(scores - opponent_scores) + 1) / 2


def length_controlled(
    preferences: Float[np.ndarray, " B"],
    lengths: Int[np.ndarray, " B"],
    opponent_lengths: Int[np.ndarray, " B"],
    *,
    seed: int,
) -> LengthControlled:
    """The win rate that a logistic regression predicts for completions of equal length.

    Dubois et al. (2024, arXiv:2404.04475), eq. 1, for one pair of models:

        P(win) = sigmoid(theta + phi tanh(difference / spread)),  win rate = sigmoid(theta)

    Simplified: there is no term for the difficulty of a prompt, which takes the preferences of
    several models to estimate, and in place of their cross-validated penalty there is a faint
    fixed one on phi. So figures differ somewhat from the AlpacaEval leaderboard's. Where nearly all
    completions of one side are longer, equal length is an extrapolation. The interval comes from
    drawing prompts again and fitting anew, 2,000 times.

    Raises:
        ValueError: If there are no preferences.
    """
    B = len(preferences)
    if B == 0:
        raise ValueError("There are no preferences, so no win rate. Judge at least one prompt.")
    differences = (lengths - opponent_lengths).astype(np.float64)
    spread = float(differences.std())
    bounded = np.tanh(differences / spread) if spread else np.zeros(B)
    mean = np.clip(preferences.mean(), 1e-6, 1 - 1e-6)
    fit = _fit(np.ones((1, B)), preferences, bounded, start=(np.log(mean / (1 - mean)), 0.0))
    generator = np.random.default_rng(seed)
    at_once = max(2**20 // B, 1)
    rates = []
    for done in range(0, _RESAMPLES, at_once):
        size = min(at_once, _RESAMPLES - done)
        drawn_RB = generator.multinomial(B, np.full(B, 1 / B), size=size)
        start = float(fit.theta[0]), float(fit.phi[0])
        rates.append(_fit(drawn_RB, preferences, bounded, start=start).rate)
    low, high = np.quantile(np.concatenate(rates), [0.025, 0.975])
    rate = Estimate(float(fit.rate[0]), float(low), float(high))
    return LengthControlled(rate, float(fit.phi[0]), spread)


def position_bias(
    when_first: Float[np.ndarray, " B"], when_second: Float[np.ndarray, " B"]
) -> dict[str, float]:
    """How much a judge goes by the order in which it is shown two completions.

    `flipped` is the share of prompts whose winner changes with the order, `unsteady` that of
    prompts whose verdict changes at all, ties included; `first_preferred` is how often what is
    shown first wins, 0.5 for a judge without bias.

    >>> position_bias(np.array([1.0, 1.0, 1.0, 0.5]), np.array([0.0, 1.0, 0.5, 0.5]))
    {'flipped': 0.25, 'unsteady': 0.5, 'first_preferred': 0.6875}
    """
    changed = np.abs(when_first - when_second)
    return {
        "flipped": float(np.mean(changed == 1)),
        "unsteady": float(np.mean(changed > 0)),
        "first_preferred": float(np.mean((when_first + 1 - when_second) / 2)),
    }


class _Fit(NamedTuple):
    """Optima of R likelihoods, and the win rates at equal length that follow from them."""

    rate: Float[np.ndarray, " R"]
    theta: Float[np.ndarray, " R"]
    phi: Float[np.ndarray, " R"]


def _fit(
    counts_RB: Float[np.ndarray, "R B"] | Int[np.ndarray, "R B"],
    preferences: Float[np.ndarray, " B"],
    bounded: Float[np.ndarray, " B"],
    *,
    start: tuple[float, float],
) -> _Fit:
    """Maximises the penalised likelihood of every row of counts, by Newton's method.

    Rows whose preferences are all 1 or all 0 have no finite optimum: their win rate is what it
    is, at any length.
    """
    mean_R = counts_RB @ preferences / counts_RB.sum(-1)
    is_mixed_R = (mean_R > 0) & (mean_R < 1)
    theta_R, phi_R = (np.full(len(mean_R), value) for value in start)
    for _ in range(_STEPS):
        p_RB = 1 / (1 + np.exp(-(theta_R[:, None] + phi_R[:, None] * bounded[None])))
        error_RB = counts_RB * (preferences[None] - p_RB)
        curve_RB = counts_RB * p_RB * (1 - p_RB)
        slope = error_RB.sum(-1), error_RB @ bounded - _RIDGE * phi_R
        tt, tp, pp = curve_RB.sum(-1), curve_RB @ bounded, curve_RB @ bounded**2 + _RIDGE
        step = np.stack([pp * slope[0] - tp * slope[1], tt * slope[1] - tp * slope[0]])
        step = np.where(is_mixed_R[None], step / (tt * pp - tp**2)[None], 0.0)
        # Bounded, because far from the optimum the likelihood is no parabola.
        step *= _LONGEST_STEP / np.maximum(np.abs(step).max(0), _LONGEST_STEP)[None]
        theta_R, phi_R = theta_R + step[0], phi_R + step[1]
        if np.abs(step).max() < _TOLERANCE:
            rate_R = np.where(is_mixed_R, 1 / (1 + np.exp(-theta_R)), mean_R)
            return _Fit(rate_R, theta_R, phi_R)
    raise AssertionError("Newton's method did not end on a strictly concave function")
