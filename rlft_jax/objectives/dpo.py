"""Direct preference optimisation (Rafailov et al., 2023, arXiv:2305.18290) and its family.

All of them push the chosen response to a prompt above the rejected one; `pair_losses` tells how.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft_jax.batch import Batch
from rlft_jax.logprobs import token_scores
from rlft_jax.metrics import Mean, Metrics
from rlft_jax.models.qwen2 import Qwen2
from rlft_jax.objectives.pair_losses import LOSSES, Loss, Pairs, Settings, gap

Name = Literal[
    "sigmoid",
    "robust",
    "sigmoid_norm",
    "ipo",
    "ipo_sum",
    "hinge",
    "apo_zero",
    "simpo",
    "orpo",
    "sft",
]

# A response counts as less likely than before when it lost more nats than rounding can explain.
FELL = 1e-3

# Starting points from the papers, for the losses whose scale differs from DPO's.
PRESETS = {
    "cdpo": {"objective": {"loss": "sigmoid", "label_smoothing": 0.1}},
    "dpo_norm": {"objective": {"loss": "sigmoid_norm", "beta": 5.0}},  # Lambert et al., 2024
    "simpo": {"objective": {"loss": "simpo", "beta": 2.0, "gamma": 1.0}},
    "orpo": {"objective": {"loss": "orpo", "beta": 0.1}},
}


def objective(
    model: Qwen2,
    batch: Batch,
    temperature: float = 1.0,
    *,
    loss: Name | Mapping[Name, int | float] = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    gamma: float = 0.5,
    reference_free: bool = False,
) -> Metrics:
    """Prefers the first of two responses to the second: the mean loss over pairs.

    Args:
        loss: Which loss, or several with their weights: {"sigmoid": 1, "sft": 0.2}.
        beta: What ratios are multiplied by: a small beta lets the policy go far from the
            reference. IPO's tau; in ORPO the weight of the odds; SimPO wants 2 and more.
        label_smoothing: The share of pairs that are expected to be the wrong way round.
        gamma: SimPO's target margin.
        reference_free: Compare log-probabilities themselves, as if the reference found all
            responses equally likely.

    Raises:
        ValueError: If a prompt has other than two responses, or the reference is missing.
    """
    _check_size(batch.is_real.shape[-1])
    weights: Mapping[Any, int | float] = {loss: 1} if isinstance(loss, str) else loss
    chosen = {name: LOSSES[name] for name in weights}
    has_reference = _compares(chosen, reference_free=reference_free)
    if has_reference:
        batch.require("reference_logprobs")

    def per_response(values: Float[Array, "R T"]) -> Float[Array, "P 2"]:
        return batch.per_response(jnp.where(batch.is_response, values, 0))

    scores = token_scores(model, batch, temperature=temperature, with_entropy=True)
    logps = per_response(scores.logprobs)
    tokens = per_response(jnp.ones(batch.tokens.shape))
    is_pair, tokens = (tokens > 0).all(-1), jnp.maximum(tokens, 1)
    given = batch.reference_logprobs
    reference = None if given is None else per_response(given)
    pairs = Pairs(
        logps=logps,
        reference=reference if has_reference and reference is not None else 0 * tokens,
        tokens=tokens,
    )
    to = Settings(beta, label_smoothing, gamma)
    losses = {name: one.of(pairs, to) for name, one in chosen.items()}

    # Losses that know no reference compare what a token is worth on average.
    is_average = all(one.reference == "never" for one in chosen.values())
    rewards = beta * (logps / tokens if is_average else pairs.ratios)
    values = {
        "loss": sum((weights[name] * each for name, each in losses.items()), 0 * tokens[:, 0]),
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/accuracies": rewards[:, 0] > rewards[:, 1],
        "rewards/margins": gap(rewards),
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
        "completions/length_gap": gap(tokens),
    }
    if reference is not None:
        values["chosen_logp_fell"] = logps[:, 0] < reference[:, 0] - FELL
    if len(losses) > 1:
        values |= {f"loss/{name}": each for name, each in losses.items()}
    return {
        **{name: Mean.of(each, is_pair) for name, each in values.items()},
        "entropy": Mean.of(scores.entropy, batch.is_response),
        "frac_real_pairs": Mean.of(is_pair),
    }


def needs_reference(section: Mapping[str, Any]) -> bool:
    """Whether the settings of an objective compare with a reference policy."""
    return _compares(_losses(section), reference_free=_value(section, "reference_free"))


def unused(section: Mapping[str, Any]) -> list[str]:
    """Returns the settings that are not at their default, and on which the loss does not depend.

    >>> unused({"loss": "ipo", "beta": 0.2, "label_smoothing": 0.1})
    ['label_smoothing']
    """
    losses = _losses(section).values()
    used = {"loss"}.union(*(one.uses for one in losses))
    if any(one.reference == "by default" for one in losses):
        used.add("reference_free")
    defaults = _defaults()
    is_set = lambda name: name in defaults and section[name] != defaults[name]
    return [name for name in section if is_set(name) and name not in used]


def problems(section: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the settings of an objective, a sentence each."""
    losses, found = _losses(section), []
    names = " and ".join(losses)
    for setting in unused(section):
        users = ", ".join(name for name, one in LOSSES.items() if setting in _settings_of(one))
        found.append(
            f"config.objective.{setting} = {section[setting]} has no effect with the loss {names}:"
            f" only {users} use it. Remove it, or choose another loss."
        )
    always = [name for name, one in losses.items() if one.reference == "always"]
    if always and _value(section, "reference_free"):
        found.append(
            f"config.objective.reference_free makes no sense with the loss {' and '.join(always)},"
            " which compares each response with the reference by itself. Remove it."
        )
    weights = section.get("loss")
    if isinstance(weights, Mapping) and (not weights or min(weights.values()) <= 0):
        found.append(
            f"config.objective.loss = {dict(weights)}: name one loss or more, with weights above 0."
        )
    smoothing = _value(section, "label_smoothing")
    if not 0 <= smoothing < 0.5:
        found.append(
            f"config.objective.label_smoothing = {smoothing} must be at least 0 and below 0.5: were"
            " half of the labels wrong, there would be nothing to learn."
        )
    if _value(section, "beta") <= 0:
        found.append(f"config.objective.beta = {_value(section, 'beta')} must be above 0.")
    return found


def _check_size(group: int) -> None:
    if group != 2:
        raise ValueError(
            f"Preferences are between two responses to a prompt, but the batch has {group}. Read"
            " pairs, or select two of the responses (selection.best_and_worst)."
        )


def _compares(losses: Mapping[str, Loss], *, reference_free: bool) -> bool:
    """Whether any of the losses sees the reference."""
    known = {"always"} if reference_free else {"always", "by default"}
    return any(one.reference in known for one in losses.values())


def _losses(section: Mapping[str, Any]) -> dict[str, Loss]:
    chosen = _value(section, "loss")
    return {name: LOSSES[name] for name in ([chosen] if isinstance(chosen, str) else chosen)}


def _settings_of(loss: Loss) -> tuple[str, ...]:
    return (*loss.uses, *["reference_free"] * (loss.reference == "by default"))


def _value(section: Mapping[str, Any], setting: str) -> Any:
    return section.get(setting, _defaults()[setting])


def _defaults() -> dict[str, Any]:
    parameters = inspect.signature(objective).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
