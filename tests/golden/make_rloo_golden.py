"""Four definitions of RLOO, worked out by loops in float64 from their formulas alone.

The policy is the smallest there is, a bigram model: the logits after a token are the head's product
with the token's normalised embedding. A Qwen2 whose attention and MLP add nothing is this model.
Gradients are central differences, of float64 numbers. Imports nothing of ours:

    python tests/golden/make_rloo_golden.py
"""

import functools
from pathlib import Path

import numpy as np

V, D, B, G, T = 11, 4, 3, 4, 9
TEMPERATURE, EPSILON = 0.7, 1e-6
PARAMS = ("embed", "scale", "head")


def inputs() -> dict[str, np.ndarray]:
    """A policy, responses, their rewards, and what other policies think of them."""
    rng = np.random.default_rng(0)
    values = {
        "embed": rng.standard_normal((V, D)),
        "scale": 1 + 0.3 * rng.standard_normal(D),
        "head": rng.standard_normal((V, D)),
        "tokens": rng.integers(0, V, (B, G, T)),
        "rewards": 3 * rng.standard_normal((B, G)),
    }
    starts, ends = rng.integers(1, 3, (B, 1, 1)), rng.integers(4, T + 1, (B, G, 1))
    values["lengths"] = ends[..., 0]
    values["is_response"] = (np.arange(T) >= starts) & (np.arange(T) < ends)
    values["tokens"] = np.where(np.arange(T) < ends, values["tokens"], 0)
    # One reward so large that OpenRLHF bounds what is left of it; an old policy so far off, but for
    # the last prompt, that every bound on a ratio is reached; one token that bounds its KL.
    values["rewards"][0, 0] = 25
    logp = logprobs(values, values["tokens"])
    far = np.where(rng.random((B, G, T)) < 0.2, 2.5, 0.15)
    far[-1] = 0.03
    values["old"] = logp + far * rng.standard_normal((B, G, T))
    values["reference"] = values["old"] + 0.5 * rng.standard_normal((B, G, T))
    values["reference"][1, 1] -= 12
    # What the tests read is float32: the numbers must be those.
    return {k: np.float32(v) if v.dtype == float else v for k, v in values.items()}


def logprobs(params: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """log p of each token given the one before it; 0 for the first."""
    embed, scale, head = (np.float64(params[name]) for name in PARAMS)
    result = np.zeros(tokens.shape)
    for b, g, t in np.ndindex(*tokens.shape):
        if t:
            x = embed[tokens[b, g, t - 1]]
            x = scale * x / np.sqrt(np.mean(x**2) + EPSILON)
            z = head @ x / TEMPERATURE
            result[b, g, t] = z[tokens[b, g, t]] - np.log(np.exp(z).sum())
    return result


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """A_i = R_i - mean over j != i of R_j."""
    A = np.zeros((B, G))
    for b in range(B):
        for i in range(G):
            A[b, i] = rewards[b, i] - np.mean([rewards[b, j] for j in range(G) if j != i])
    return A


def kl_in_reward(x: dict, weight: float) -> np.ndarray:
    """R_i = r_i - weight sum_t [log pi_old - log pi_reference], then leave-one-out."""
    shaped = np.array(x["rewards"], np.float64)
    for b, i in np.ndindex(B, G):
        mine = x["is_response"][b, i]
        shaped[b, i] -= weight * np.sum((x["old"] - x["reference"])[b, i][mine])
    return leave_one_out(shaped)


def everywhere(x: dict, A: np.ndarray) -> np.ndarray:
    """An advantage of each response, at all of its tokens."""
    return np.where(x["is_response"], A[..., None], 0.0)


def kl_after_baseline(x: dict) -> np.ndarray:
    """OpenRLHF: bounded advantage at the end, minus .01 of the bounded KL from the token on."""
    A = np.clip(leave_one_out(np.float64(x["rewards"])), -10, 10)
    result = np.zeros((B, G, T))
    for b, i in np.ndindex(B, G):
        to_go = 0.0
        for t in reversed(range(T)):
            if x["is_response"][b, i, t]:
                k1 = np.clip(np.float64(x["old"] - x["reference"])[b, i, t], -10, 10)
                to_go -= 0.01 * k1
                result[b, i, t] = A[b, i] + to_go
    return result


ADVANTAGES = {
    "ahmadian": lambda x: everywhere(x, kl_in_reward(x, 0.03)),
    "trl": lambda x: everywhere(x, kl_in_reward(x, 0.05)),
    "verl": lambda x: everywhere(x, leave_one_out(np.float64(x["rewards"]))),
    "openrlhf": kl_after_baseline,
}


def of_responses(x: dict, A: np.ndarray, logp: np.ndarray, *, clip: bool) -> float:
    """Mean over responses of -A log p, or of the clipped ratio's loss."""
    losses = []
    for b, i in np.ndindex(B, G):
        mine = x["is_response"][b, i]
        advantage = A[b, i][mine][0]
        total, old = logp[b, i][mine].sum(), np.float64(x["old"])[b, i][mine].sum()
        if not clip:
            losses.append(-advantage * total)
            continue
        rho = np.exp(total - old)
        losses.append(-min(rho * advantage, np.clip(rho, 0.8, 1.2) * advantage))
    return float(np.mean(losses))


def of_tokens(x: dict, A: np.ndarray, logp: np.ndarray, *, dual: float | None) -> float:
    """Mean over tokens of the clipped ratio's loss, with verl's bound where A < 0."""
    losses = []
    for place in zip(*np.nonzero(x["is_response"])):
        rho = np.exp(np.clip(logp[place] - np.float64(x["old"][place]), -20, 20))
        loss = max(-rho * A[place], -np.clip(rho, 0.8, 1.2) * A[place])
        if dual is not None and A[place] < 0:
            loss = min(loss, -dual * A[place])
        losses.append(loss)
    return float(np.mean(losses))


LOSSES = {
    "ahmadian": lambda x, A, logp: of_responses(x, A, logp, clip=False),
    "trl": lambda x, A, logp: of_responses(x, A, logp, clip=True),
    "verl": lambda x, A, logp: of_tokens(x, A, logp, dual=3.0),
    "openrlhf": lambda x, A, logp: of_tokens(x, A, logp, dual=None),
}


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
    """Inputs, and for each definition advantages, loss and gradients."""
    x = inputs()
    result: dict[str, np.ndarray] = dict(x)
    logp = logprobs(x, x["tokens"])
    for name, advantages in ADVANTAGES.items():
        A = advantages(x)
        loss = functools.partial(LOSSES[name], x, A)
        of_param = lambda param, value, loss=loss: loss(logprobs({**x, param: value}, x["tokens"]))
        result[f"{name}/advantages"] = A
        result[f"{name}/loss"] = np.float64(loss(logp))
        result[f"{name}/gradient/logprobs"] = slopes(loss, logp)
        for param in PARAMS:
            result[f"{name}/gradient/{param}"] = slopes(
                functools.partial(of_param, param), x[param]
            )
    check_that_bounds_matter(x, logp)
    return result


def check_that_bounds_matter(x: dict, logp: np.ndarray) -> None:
    """Without these the files would not tell one definition from another."""
    rho = np.exp(logp - x["old"])[x["is_response"]]
    A = ADVANTAGES["verl"](x)[x["is_response"]]
    assert ((rho > 3) & (A < 0)).any()
    assert ((rho > 1.2) & (A > 0)).any()
    assert ((rho < 0.8) & (A < 0)).any()
    assert (np.abs(leave_one_out(np.float64(x["rewards"]))) > 10).any()
    assert (np.abs(x["old"] - x["reference"])[x["is_response"]] > 10).any()
    whole = np.exp(((logp - x["old"]) * x["is_response"]).sum(-1))
    assert (np.abs(whole - 1) < 0.2).any()
    assert (np.abs(whole - 1) > 0.2).any()


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("rloo.npz"), **golden())
