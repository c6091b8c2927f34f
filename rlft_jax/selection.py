"""Which of the responses to a prompt are learned from: responses become responses.

Shapes depend on shapes alone. Where there is nothing to select, a place stays empty: responses of
no tokens, which no objective counts.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from rlft_jax.batch import Responses


def best(responses: Responses, *, least: float | None = None) -> Responses:
    """Keeps the best response to each prompt, the first of equals: G = 1, ready for SFT.

    Args:
        least: The reward from which on a response is worth learning from; any, if None.
    """
    rewards = _rewards(responses)
    highest = rewards.max(-1)
    is_kept = (highest > -np.inf) & (highest >= (-np.inf if least is None else least))
    return _taken(responses, np.arange(len(rewards)), rewards.argmax(-1)[:, None], is_kept)


def best_and_worst(responses: Responses, *, min_gap: float = 0.0) -> Responses:
    """Keeps the best and the worst response to each prompt: G = 2, ready for DPO.

    Args:
        min_gap: How far apart their rewards have to be; equal ones are never a pair.
    """
    return all_pairs(responses, min_gap=min_gap, most=1)


def all_pairs(responses: Responses, *, min_gap: float = 0.0, most: int | None = None) -> Responses:
    """Makes pairs of all responses to a prompt, the better one first: G = 2, ready for DPO.

    Of B prompts with G responses come B * G * (G - 1) / 2 places, empty ones among them.

    Args:
        min_gap: How far apart two rewards have to be; equal ones are never a pair.
        most: Pairs of a prompt to keep, those furthest apart; None for all.
    """
    rewards = _rewards(responses)
    B, G = rewards.shape
    ranked_BG = np.argsort(-rewards, axis=-1, kind="stable")
    better, worse = np.triu_indices(G, 1)
    pairs_BK2 = np.stack([ranked_BG[:, better], ranked_BG[:, worse]], axis=-1)
    high, low = np.moveaxis(np.take_along_axis(rewards[:, None], pairs_BK2, axis=-1), -1, 0)
    is_real = low > -np.inf
    gaps_BK = np.where(is_real, high - np.where(is_real, low, 0), 0)
    is_pair_BK = (gaps_BK > 0) & (gaps_BK >= min_gap)
    widest_BK = np.argsort(-np.where(is_pair_BK, gaps_BK, 0), axis=-1, kind="stable")[:, :most]
    pairs_BK2 = np.take_along_axis(pairs_BK2, widest_BK[..., None], axis=1)
    is_pair_BK = np.take_along_axis(is_pair_BK, widest_BK, axis=1)
    prompts = np.repeat(np.arange(B), widest_BK.shape[1])
    return _taken(responses, prompts, pairs_BK2.reshape(-1, 2), is_pair_BK.ravel())


def informative(responses: Responses, *, share: int | float = 0.5) -> Responses:
    """Keeps the prompts whose responses differ most in reward, with all of their responses.

    Where all rewards are equal, comparing teaches nothing. To learn from as many prompts as
    without, pose more: the idea of dynamic sampling (Yu et al., 2025, arXiv:2503.14476, section
    3.2) with shapes that stay.

    Args:
        share: Of the prompts, to keep.
    """
    rewards = _rewards(responses)
    is_real = rewards > -np.inf
    spread = np.where(is_real, rewards, np.nan)
    deviation = np.zeros(len(rewards))
    some = is_real.any(-1)
    deviation[some] = np.nanstd(spread[some], axis=-1)
    count = max(round(share * len(rewards)), 1)
    kept = np.sort(np.argsort(-deviation, kind="stable")[:count])
    which = np.broadcast_to(np.arange(rewards.shape[1]), (count, rewards.shape[1]))
    return _taken(responses, kept, which, np.ones(count, bool))


SELECTIONS = {
    "informative": informative,
    "best": best,
    "best_and_worst": best_and_worst,
    "all_pairs": all_pairs,
}
# Responses to a prompt that each of them leaves, where that is fixed.
GROUP = {"best": 1, "best_and_worst": 2, "all_pairs": 2}


def _rewards(responses: Responses) -> Float[np.ndarray, "B G"]:
    """Rewards, and minus infinity for what cannot be learned from."""
    assert responses.rewards is not None
    assert np.isfinite(responses.rewards).all()
    return np.where(responses.is_response.any(-1), responses.rewards, -np.inf)


def _taken(
    responses: Responses,
    prompts: Int[np.ndarray, " P"],
    which: Int[np.ndarray, "P K"],
    is_kept: Bool[np.ndarray, " P"],
) -> Responses:
    """Responses `which` to `prompts`, field by field, and nothing where that is not to be kept."""

    def pick(field: np.ndarray) -> np.ndarray:
        picked = field[prompts[:, None], which]
        mask = is_kept.reshape(-1, *[1] * (picked.ndim - 1))
        return np.where(mask, picked, np.zeros((), field.dtype))

    fields = responses._asdict().items()
    return Responses(**{name: pick(field) for name, field in fields if field is not None})
