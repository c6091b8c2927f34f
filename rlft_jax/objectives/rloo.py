"""REINFORCE leave-one-out (Ahmadian et al., 2024, arXiv:2402.14740).

Four codebases call four algorithms RLOO; `PRESETS` spells each out in the settings below:

- `ahmadian`: the paper. KL in the reward, one action per response, plain REINFORCE.
- `trl`: the same with a clipped ratio of whole responses.
- `verl`: a clipped ratio per token, averaged over tokens, so that long responses count more.
- `openrlhf`: as verl, with the KL subtracted after the baseline, from the token on.

`advantages` runs once per rollout, on the host; `objective` is what the step differentiates.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlft_jax.batch import Batch
from rlft_jax.logprobs import token_scores
from rlft_jax.metrics import Largest, Mean, Metrics, with_extremes
from rlft_jax.models.qwen2 import Qwen2

PRESETS = {
    "ahmadian": {
        "objective": {"ratio": "none", "clip_low": None, "clip_high": None},
        "advantages": {"kl_weight": 0.03},
    },
    "trl": {
        "objective": {"ratio": "sequence"},
        "advantages": {"kl_weight": 0.05},
    },
    "verl": {
        "objective": {
            "ratio": "token",
            "aggregation": "token",
            "dual_clip": 3.0,
            "log_ratio_limit": 20.0,
        },
        "advantages": {"kl_weight": 0.0},
    },
    "openrlhf": {
        "objective": {"ratio": "token", "aggregation": "token", "log_ratio_limit": 20.0},
        "advantages": {
            "kl_weight": 0.01,
            "kl_after_baseline": True,
            "kl_limit": 10.0,
            "advantage_limit": 10.0,
        },
    },
}


def leave_one_out(rewards: Float[np.ndarray, "B G"]) -> Float[np.ndarray, "B G"]:
    """Each reward minus the mean of the other G - 1 to the same prompt.

    >>> leave_one_out(np.array([[1.0, 0.0, 0.0]]))
    array([[ 1. , -0.5, -0.5]])
    """
    G = rewards.shape[-1]
    if G < 2:
        raise ValueError(
            f"RLOO compares responses to the same prompt, but there is {G} of each."
            " Set config.rollout.responses to 2 or more."
        )
    # The sum of differences, so that equal rewards give 0 to the last bit.
    return (rewards[..., :, None] - rewards[..., None, :]).sum(-1) / (G - 1)


def advantages(
    rewards: Float[np.ndarray, "B G"],
    is_response: Bool[np.ndarray, "B G T"],
    old_logprobs: Float[np.ndarray, "B G T"] | None = None,
    reference_logprobs: Float[np.ndarray, "B G T"] | None = None,
    everywhere: Callable[[np.ndarray], np.ndarray] = np.asarray,
    *,
    kl_weight: float = 0.0,
    kl_after_baseline: bool = False,
    kl_limit: float | None = None,
    reward_clip: float | None = None,
    advantage_limit: float | None = None,
    normalize: bool = False,
) -> Float[np.ndarray, "B G T"]:
    """How much to reinforce each response token.

    Args:
        everywhere: Gives the values of all processes from those of this one.
        kl_weight: Reward lost per nat of log p(response) - log p_reference(response), the k1
            estimate of the KL to the reference.
        kl_after_baseline: Subtract the KL of a token and those after it from the token's
            advantage, rather than that of the response from its reward.
        kl_limit: Bound on the absolute KL estimate of a token.
        reward_clip: Bound on the absolute reward, before the KL.
        advantage_limit: Bound on the absolute reward minus baseline.
        normalize: Divide by the standard deviation over all responses, after subtracting the
            mean, as TRL does.
    """
    if reward_clip is not None:
        rewards = np.clip(rewards, -reward_clip, reward_clip)
    kl = np.zeros(is_response.shape)
    if kl_weight:
        assert old_logprobs is not None
        assert reference_logprobs is not None
        kl = np.where(is_response, old_logprobs - reference_logprobs, 0)
        kl = kl if kl_limit is None else np.clip(kl, -kl_limit, kl_limit)
    if not kl_after_baseline:
        rewards = rewards - kl_weight * kl.sum(-1)
    advantage = leave_one_out(rewards.astype(np.float64))
    if advantage_limit is not None:
        advantage = np.clip(advantage, -advantage_limit, advantage_limit)
    if normalize:
        of_all = everywhere(advantage)
        advantage = (advantage - of_all.mean()) / (of_all.std(ddof=1) + 1e-4)
    per_token = np.broadcast_to(advantage[..., None], is_response.shape)
    if kl_after_baseline:
        per_token = per_token - kl_weight * kl[..., ::-1].cumsum(-1)[..., ::-1]
    return np.where(is_response, per_token, 0).astype(np.float32)


def objective(
    model: Qwen2,
    batch: Batch,
    temperature: float = 1.0,
    *,
    ratio: Literal["none", "sequence", "token"] = "sequence",
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.2,
    dual_clip: float | None = None,
    log_ratio_limit: float | None = None,
    aggregation: Literal["response", "token"] = "response",
    kl_weight: float = 0.0,
    kl_estimator: Literal["k1", "k2", "k3"] = "k3",
    importance_cap: float | None = None,
) -> Metrics:
    """Reinforces responses by their advantages.

    Args:
        ratio: What is reinforced. `none`: the log-probability, as in the paper. `sequence`:
            the ratio of the response's probability to that under the policy that sampled it.
            `token`: the ratio of each token's. At the first update they have one gradient up
            to the aggregation's weights.
        clip_low: Ratios below 1 - clip_low stop counting where that would lower the loss.
        clip_high: Ratios above 1 + clip_high stop counting likewise.
        dual_clip: Bound on the ratio of what is discouraged (Ye et al., 2019,
            arXiv:1912.09729, eq. 5).
        log_ratio_limit: Bound on the absolute log-ratio, against overflow.
        aggregation: Mean over responses of the sum over their tokens, or mean over tokens.
        kl_weight: Weight of the KL to the reference in the loss, summed over tokens and
            averaged as `aggregation` says.
        kl_estimator: log-ratio (k1), half its square (k2), or the unbiased low-variance
            estimate exp(-x) - 1 + x (k3).
        importance_cap: Weighs each token, or each response where the ratio is of responses, by
            p_trainer / p_sampler, at most this, for samplers that differ from the trainer or are a
            step behind.
    """
    scores = token_scores(model, batch, temperature=temperature, with_entropy=True)
    where, logp_RT = batch.is_response, jnp.where(batch.is_response, scores.logprobs, 0)
    old_RT = jax.lax.stop_gradient(logp_RT)
    if batch.old_logprobs is not None:
        old_RT = jnp.where(where, batch.old_logprobs, 0)
    mismatch_RT = jnp.where(where, old_RT - batch.require("sampled_logprobs"), 0)
    advantages_RT = jnp.where(where, batch.require("advantages"), 0)

    log_ratio, mismatch, advantage, is_term = logp_RT - old_RT, mismatch_RT, advantages_RT, where
    if ratio == "sequence":
        log_ratio, mismatch = batch.per_response(log_ratio), batch.per_response(mismatch)
        tokens = batch.per_response(where.astype(jnp.float32))
        advantage, is_term = batch.per_response(advantage) / jnp.maximum(tokens, 1), tokens > 0
    importance = jnp.exp(mismatch)
    if importance_cap is not None:
        importance = jnp.minimum(importance, importance_cap)
        advantage *= importance
    if log_ratio_limit is not None:
        log_ratio = jnp.clip(log_ratio, -log_ratio_limit, log_ratio_limit)
    ratios = jnp.exp(log_ratio)
    clipped = ratios
    if clip_low is not None or clip_high is not None:
        least = None if clip_low is None else 1 - clip_low
        clipped = jnp.clip(ratios, least, None if clip_high is None else 1 + clip_high)
    if ratio == "none":
        surrogate = logp_RT * advantage  # Ahmadian et al., eq. 6
    else:
        surrogate = jnp.minimum(ratios * advantage, clipped * advantage)
        if dual_clip is not None:
            bounded = jnp.maximum(surrogate, dual_clip * advantage)
            surrogate = jnp.where(advantage < 0, bounded, surrogate)

    terms = where.sum() if aggregation == "token" else batch.is_real.sum()
    total = -jnp.where(is_term, surrogate, 0).sum()
    is_low = (ratios < clipped) & (advantage < 0)
    is_high = (ratios > clipped) & (advantage > 0)
    metrics = {
        "entropy": Mean.of(scores.entropy, where),
        **with_extremes("ratio", ratios, is_term),
        "clip_ratio/low_mean": Mean.of(is_low, is_term),
        "clip_ratio/high_mean": Mean.of(is_high, is_term),
        "clip_ratio/region_mean": Mean.of(is_low | is_high, is_term),
        "sampling/sampling_logp_difference/mean": Mean.of(jnp.abs(mismatch_RT), where),
        "sampling/sampling_logp_difference/max": Largest.of(jnp.abs(mismatch_RT), where),
        **with_extremes("sampling/importance_sampling_ratio", importance, is_term),
        "sampling/kl": Mean.of(_kl(-mismatch_RT, "k3"), where),
    }
    if kl_weight or batch.reference_logprobs is not None:
        reference_RT = jnp.where(where, batch.require("reference_logprobs"), 0)
        kl = Mean.of(_kl(logp_RT - reference_RT, kl_estimator), where)
        metrics["kl"] = kl
        if kl_weight:
            total += kl_weight * kl.total
    return {"loss": Mean(total, terms.astype(jnp.float32)), **metrics}


def _kl(log_ratio: Float[Array, "R T"], estimator: str) -> Float[Array, "R T"]:
    """Per-token estimates of KL(p || q) from log p - log q of tokens drawn from p."""
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio**2 / 2
    return jnp.expm1(-log_ratio) + log_ratio  # exp(-x) - 1 would round small KLs to 0
