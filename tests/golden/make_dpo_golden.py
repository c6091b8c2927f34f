"""DPO and its relatives, worked out by loops in float64 from the papers' formulas alone.

The policy is a table of log-probabilities; gradients by them are central differences. Imports
nothing of ours:

    python tests/golden/make_dpo_golden.py
"""

import json
import math
from pathlib import Path

import numpy as np

P, T = 5, 8

# Name: settings of the objective.
CASES = {
    "sigmoid": dict(loss="sigmoid", beta=0.3),
    "cdpo": dict(loss="sigmoid", beta=0.3, label_smoothing=0.2),
    "robust": dict(loss="robust", beta=0.3, label_smoothing=0.2),
    "sigmoid_norm": dict(loss="sigmoid_norm", beta=5.0),
    "ipo": dict(loss="ipo", beta=0.7),
    "ipo_sum": dict(loss="ipo_sum", beta=0.1),
    "hinge": dict(loss="hinge", beta=0.5),
    "apo_zero": dict(loss="apo_zero", beta=0.4),
    "simpo": dict(loss="simpo", beta=2.0, gamma=0.7),
    "orpo": dict(loss="orpo", beta=0.25),
    "sft": dict(loss="sft"),
    "reference_free": dict(loss="sigmoid", beta=0.2, reference_free=True),
    "several": dict(loss={"sigmoid": 1.0, "sft": 0.2, "ipo": 0.5}, beta=0.3),
}


def inputs() -> dict[str, np.ndarray]:
    """Pairs of responses of uneven lengths, and what two policies think of them."""
    rng = np.random.default_rng(0)
    starts, ends = rng.integers(1, 3, (P, 1, 1)), rng.integers(4, T + 1, (P, 2, 1))
    is_response = (np.arange(T) >= starts) & (np.arange(T) < ends)
    logp = np.where(is_response, -0.1 - rng.gamma(1.0, 1.0, (P, 2, T)), 0)
    reference = np.where(is_response, logp + rng.standard_normal((P, 2, T)), 0)
    return {
        "lengths": ends[..., 0],
        "is_response": is_response,
        # What the tests read is float32: the numbers must be those.
        "logprobs": logp.astype(np.float32),
        "reference": np.minimum(reference, 0).astype(np.float32),
    }


def log_sigmoid(x: float) -> float:
    """log 1 / (1 + e^-x)."""
    return -math.log1p(math.exp(-x))


def of_pair(name: str, s: list[float], r: list[float], n: list[int], x: dict) -> float:
    """The loss of one pair: s and r are summed log-probabilities, n token counts, chosen first."""
    beta, smoothing = x.get("beta", 0.1), x.get("label_smoothing", 0.0)
    if x.get("reference_free"):
        r = [0.0, 0.0]
    delta = (s[0] - r[0]) - (s[1] - r[1])
    per_token = (s[0] - r[0]) / n[0] - (s[1] - r[1]) / n[1]
    if name == "sigmoid":
        h = beta * delta
        return -(1 - smoothing) * log_sigmoid(h) - smoothing * log_sigmoid(-h)
    if name == "robust":
        h = beta * delta
        flips = (1 - smoothing) * -log_sigmoid(h) - smoothing * -log_sigmoid(-h)
        return flips / (1 - 2 * smoothing)
    if name == "sigmoid_norm":
        return -log_sigmoid(beta * per_token)
    if name == "ipo":
        return (per_token - 1 / (2 * beta)) ** 2
    if name == "ipo_sum":
        return (delta - 1 / (2 * beta)) ** 2
    if name == "hinge":
        return max(0.0, 1 - beta * delta)
    if name == "apo_zero":
        win, lose = (1 / (1 + math.exp(-beta * (s[i] - r[i]))) for i in (0, 1))
        return 1 - win + lose
    if name == "simpo":
        return -log_sigmoid(beta / n[0] * s[0] - beta / n[1] * s[1] - x["gamma"])
    if name == "orpo":
        p = [math.exp(s[i] / n[i]) for i in (0, 1)]
        odds = [p[i] / (1 - p[i]) for i in (0, 1)]
        return -s[0] / n[0] - beta * log_sigmoid(math.log(odds[0] / odds[1]))
    assert name == "sft"
    return -s[0] / n[0]


def loss(x: dict[str, np.ndarray], settings: dict, logp: np.ndarray) -> float:
    """Mean over pairs of the weighted sum of losses."""
    named = settings["loss"]
    weights = {named: 1.0} if isinstance(named, str) else named
    mine, total = x["is_response"], 0.0
    for b in range(P):
        s = [float(np.sum(np.float64(logp[b, g])[mine[b, g]])) for g in (0, 1)]
        r = [float(np.sum(np.float64(x["reference"][b, g])[mine[b, g]])) for g in (0, 1)]
        n = [int(mine[b, g].sum()) for g in (0, 1)]
        total += sum(w * of_pair(name, s, r, n, settings) for name, w in weights.items())
    return total / P


def slopes(function, at: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """Central differences."""
    result = np.zeros(at.shape)
    for place in np.ndindex(*at.shape):
        ends = []
        for sign in (1, -1):
            moved = np.array(at, np.float64)
            moved[place] += sign * h
            ends.append(function(moved))
        result[place] = (ends[0] - ends[1]) / (2 * h)
    return result


def golden() -> dict[str, np.ndarray]:
    """Inputs, settings, and for each case loss and gradient by log-probabilities."""
    x = inputs()
    result: dict[str, np.ndarray] = {**x, "cases": np.array(json.dumps(CASES))}
    for name, settings in CASES.items():
        of_logp = lambda logp, settings=settings: loss(x, settings, logp)
        result[f"{name}/loss"] = np.float64(of_logp(x["logprobs"]))
        result[f"{name}/gradient"] = slopes(of_logp, x["logprobs"])
    # The hinge has pairs on both sides of its corner.
    moved = np.abs(result["hinge/gradient"]).sum((1, 2)) > 0
    assert moved.any()
    assert not moved.all()
    return result


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("dpo.npz"), **golden())
