"""The figures of one model against a named opponent, ready for JSON, and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rlft_jax import progress
from rlft_jax.evaluate import with_interval
from rlft_jax.judges.pairwise import Judgement, Pair
from rlft_jax.judges.template import VERSION
from rlft_jax.judges.win_rate import length_controlled, position_bias, preferences_by_score
from rlft_jax.statistics import estimate
from rlft_jax.training.run_directory import versions

Result = dict[str, Any]

INTERVALS = "95%, percentile bootstrap over prompts, 10,000 resamples (at equal length 2,000)"
TIES = "count half"
LENGTHS = "characters of the completion"


def by_reward_model(
    pairs: Sequence[Pair],
    scores: Float[np.ndarray, " B"],
    opponent_scores: Float[np.ndarray, " B"],
    *,
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
) -> Result:
    """Figures of pairs by a reward model's scores of both sides.

    Args:
        pairs: What was scored.
        scores: Of the model's completions.
        opponent_scores: Of the opponent's.
        seed: Of the bootstrap.
        spec: What the caller knows: model, opponent, judge, data and so on.

    Raises:
        ValueError: If there is no pair, or a score is not finite.
    """
    margins = scores - opponent_scores
    return {
        **_figures(pairs, preferences_by_score(scores, opponent_scores), seed=seed, spec=spec),
        "mean_score": float(scores.mean()),
        "mean_opponent_score": float(opponent_scores.mean()),
        "mean_margin": estimate(margins, seed=seed)._asdict(),
    }


def by_endpoint(
    pairs: Sequence[Pair],
    judgements: Sequence[Judgement],
    *,
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
) -> Result:
    """Figures of pairs by what an endpoint said of them.

    Only pairs with a verdict in both orders count; how many have none is among the figures.

    Raises:
        ValueError: If no pair has verdicts in both orders.
    """
    read = [(pair, j) for pair, j in zip(pairs, judgements, strict=True) if _is_read(j)]
    failures = sum(j.failures for j in judgements)
    unreadable = sum(j.unreadable for j in judgements)
    if not read:
        raise ValueError(
            f"None of {len(pairs)} prompts has a verdict in both orders: {failures} questions were"
            f" not answered, and {unreadable} answers held no verdict. Look at the log, and try"
            " the judge on a few prompts first."
        )
    when_first = np.array([j.when_first for _, j in read], float)
    when_second = np.array([j.when_second for _, j in read], float)
    preferences = (when_first + when_second) / 2
    stated = {"template_version": VERSION, "orders": "both, averaged", **(spec or {})}
    return {
        **_figures([pair for pair, _ in read], preferences, seed=seed, spec=stated),
        "prompts_without_verdict": len(pairs) - len(read),
        "unanswered_questions": failures,
        "unreadable_answers": unreadable,
        "position_bias": position_bias(when_first, when_second),
    }


def show(result: Result) -> None:
    """Prints the figures, and what was measured."""
    controlled = result["length_controlled"]
    length = result["mean_length"]["value"], result["mean_opponent_length"]["value"]
    named = {
        "win rate": with_interval(result["win_rate"]),
        "win rate at equal length": with_interval(controlled["win_rate"]),
        "wins / ties / losses": " / ".join(str(result[k]) for k in ("wins", "ties", "losses")),
        "length, and the opponent's": f"{length[0]:.0f}, {length[1]:.0f}",
        "its completion is the longer one": f"{result['longer']:.3f}",
    }
    if "position_bias" in result:
        bias = result["position_bias"]
        named["winner changes with the order"] = f"{bias['flipped']:.3f}"
        named["shown first, wins"] = f"{bias['first_preferred']:.3f}"
        named["prompts without a verdict"] = str(result["prompts_without_verdict"])
    if "mean_margin" in result:
        named["difference of scores"] = with_interval(result["mean_margin"])
    spec = result["spec"]
    title = f"{spec.get('model', 'The model')} against {spec.get('opponent', 'its opponent')}"
    progress.table(title, ["", "value"], list(map(list, named.items())), caption=said(spec))


def said(spec: Mapping[str, Any]) -> str:
    """What was measured, in a sentence or two."""
    known = [
        f"{name} {spec[name]}" for name in ("judge", "template_version", "data") if name in spec
    ]
    listed = ", ".join([f"{spec['prompts']} prompts", *known, f"seed {spec['seed']}"])
    return (
        f"{listed}. Ties {spec['ties']}. Lengths are {spec['lengths']}. In brackets:"
        f" {spec['intervals']}."
    )


def _is_read(judgement: Judgement) -> bool:
    return judgement.preference is not None


def _figures(
    pairs: Sequence[Pair],
    preferences: Float[np.ndarray, " B"],
    *,
    seed: int,
    spec: Mapping[str, Any] | None,
) -> Result:
    """What all judges' figures have in common."""
    lengths = np.array([len(pair.completion) for pair in pairs])
    opponent_lengths = np.array([len(pair.opponent) for pair in pairs])
    controlled = length_controlled(preferences, lengths, opponent_lengths, seed=seed)
    measured = {"prompts": len(pairs), "seed": seed, "versions": versions()}
    stated = {"ties": TIES, "lengths": LENGTHS, "intervals": INTERVALS}
    return {
        "spec": {**(spec or {}), **measured, **stated},
        "win_rate": estimate(preferences, seed=seed)._asdict(),
        "length_controlled": {
            "win_rate": controlled.win_rate._asdict(),
            "length_weight": controlled.length_weight,
            "spread": controlled.spread,
        },
        "wins": int((preferences > 0.5).sum()),
        "ties": int((preferences == 0.5).sum()),
        "losses": int((preferences < 0.5).sum()),
        "longer": float((lengths > opponent_lengths).mean()),
        "mean_length": estimate(lengths.astype(float), seed=seed)._asdict(),
        "mean_opponent_length": estimate(opponent_lengths.astype(float), seed=seed)._asdict(),
    }
