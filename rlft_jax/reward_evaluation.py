"""How well a reward model tells the better of two texts, beside a rule that only counts letters.

Preferences of people and of models lean to longer answers, so an accuracy says little by itself:
wherever one stands here, that of calling the longer answer better stands beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rlft_jax import progress, statistics
from rlft_jax.evaluate import with_interval
from rlft_jax.training.run_directory import versions

Result = dict[str, Any]

INTERVALS = "95%, percentile bootstrap over prompts, 10,000 resamples"
TIES = "equal scores, and equal lengths, count half"
# Bounds of the length of the better answer, as a multiple of the other's.
LENGTH_RATIOS = {
    "under 1/2": (0.0, 0.5),
    "1/2 to 9/10": (0.5, 0.9),
    "9/10 to 10/9": (0.9, 10 / 9),
    "10/9 to 2": (10 / 9, 2.0),
    "2 and over": (2.0, np.inf),
}


def evaluate(
    scores: Float[np.ndarray, "B 2"],
    lengths: Int[np.ndarray, "B 2"],
    prompts: Sequence[str],
    *,
    sources: Sequence[str | None] | None = None,
    seed: int = 0,
    bins: int = 10,
    spec: Mapping[str, Any] | None = None,
) -> Result:
    """Returns all figures of B pairs, the better response first, ready for JSON.

    Args:
        scores: What the reward model gives.
        lengths: Of the responses, in characters.
        prompts: Equal for pairs that are not independent: intervals are over prompts.
        sources: What each pair is from, for a figure of each source.
        seed: Of the bootstrap.
        bins: Of the reliability curve.
        spec: What the caller knows of the measurement: model, data and so on.

    Raises:
        ValueError: If there are no pairs, or a score is not finite.
    """
    B = len(scores)
    if not B:
        raise ValueError("There are no pairs to evaluate on. Check the data and the limit.")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{(~np.isfinite(scores).all(-1)).sum()} of {B} pairs have a score that is not finite."
            " The reward model is broken, or its dtype too narrow."
        )
    assert len(lengths) == len(prompts) == B, (len(lengths), len(prompts), B)
    scores = scores.astype(np.float64)
    difference_B, prompts_B = scores[:, 0] - scores[:, 1], np.array(prompts, object)
    is_right_B, is_longer_B = _first_wins(scores), _first_wins(lengths)

    def figures(where: Bool[np.ndarray, " B"]) -> Result:
        over = lambda values: _estimate(values[where], prompts_B[where], seed)
        return {
            "pairs": int(where.sum()),
            "prompts": len(set(prompts_B[where])),
            "accuracy": over(is_right_B),
            "longer_wins": over(is_longer_B),
            "above_longer": over(is_right_B - is_longer_B),
        }

    everything = np.ones(B, bool)
    by_source = {} if sources is None else _groups([str(source) for source in sources])
    measured = {"pairs": B, "prompts": len(set(prompts)), "seed": seed}
    stated = {"intervals": INTERVALS, "ties": TIES, "versions": versions()}
    return {
        "spec": {**(spec or {}), **measured, **stated},
        **figures(everything),
        "equal_scores": float((difference_B == 0).mean()),
        "margin": _estimate(difference_B, prompts_B, seed),
        "log_loss": _estimate(np.logaddexp(0, -difference_B), prompts_B, seed),
        "sources": {name: figures(where) for name, where in by_source.items()},
        "length_ratios": {
            name: figures(where) for name, where in _by_length(lengths).items() if where.any()
        },
        "calibration": calibration(difference_B, bins=bins),
        "length_correlation": length_correlation(scores, lengths),
    }


def calibration(differences: Float[np.ndarray, " B"], *, bins: int = 10) -> Result:
    """How often a reward model is right, beside how sure Bradley-Terry says it may be.

    Its confidence in what it prefers is sigmoid(|difference of scores|), from 0.5 to 1. The
    `error` is the expected calibration error (Guo et al., 2017, arXiv:1706.04599, eq. 3), over
    bins of equal width; the `curve` leaves empty bins out.

    >>> calibration(np.array([0.0, 0.0]))["error"]
    0.0
    """
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    is_right = (1 + np.sign(differences)) / 2
    bin_of = np.minimum((2 * bins * (confidence - 0.5)).astype(int), bins - 1)
    curve = []
    for number in np.unique(bin_of):
        where = bin_of == number
        curve.append(
            {
                "from": 0.5 + number / (2 * bins),
                "to": 0.5 + (number + 1) / (2 * bins),
                "pairs": int(where.sum()),
                "confidence": float(confidence[where].mean()),
                "accuracy": float(is_right[where].mean()),
            }
        )
    gaps = [point["pairs"] * abs(point["accuracy"] - point["confidence"]) for point in curve]
    return {"error": float(sum(gaps) / len(differences)), "curve": curve}


def length_correlation(
    scores: Float[np.ndarray, "B 2"], lengths: Int[np.ndarray, "B 2"]
) -> dict[str, float | None]:
    """How much scores go with lengths: over all texts, and within pairs, where prompts are alike.

    None where either does not vary.
    """
    texts = scores.ravel(), lengths.ravel().astype(np.float64)
    pairs = scores[:, 0] - scores[:, 1], (lengths[:, 0] - lengths[:, 1]).astype(np.float64)
    return {
        "pearson": _correlation(*texts),
        "spearman": _correlation(*map(_ranks, texts)),
        "pearson_within_pairs": _correlation(*pairs),
        "spearman_within_pairs": _correlation(*map(_ranks, pairs)),
    }


def show(result: Result) -> None:
    """Prints the figures of an evaluation, and what was measured."""
    spec, curve = result["spec"], result["calibration"]
    columns = ["", "pairs", "accuracy", "longer answer wins", "difference"]
    tables = {"Sources": result["sources"], "Length of the better answer": result["length_ratios"]}
    progress.table(f"preferences: {spec.get('model', '')}", columns, [_row("all pairs", result)])
    for title, groups in tables.items():
        if groups:
            progress.table(title, columns, [_row(name, group) for name, group in groups.items()])
    progress.table(
        "Calibration",
        ["confidence", "pairs", "mean confidence", "accuracy"],
        [
            [
                f"{point['from']:.2f} to {point['to']:.2f}",
                str(point["pairs"]),
                f"{point['confidence']:.3f}",
                f"{point['accuracy']:.3f}",
            ]
            for point in curve["curve"]
        ],
        caption=f"Expected calibration error {curve['error']:.3f}.",
    )
    found = result["length_correlation"]
    word = lambda value: "-" if value is None else f"{value:+.3f}"
    progress.table(
        "Score and length",
        ["correlation", "Pearson", "Spearman"],
        [
            [name, word(found[f"pearson{suffix}"]), word(found[f"spearman{suffix}"])]
            for name, suffix in (("all texts", ""), ("within pairs", "_within_pairs"))
        ],
        caption=said(spec),
    )


def said(spec: Mapping[str, Any]) -> str:
    """What was measured, in a sentence or two."""
    data = f" ({spec['data']})" if "data" in spec else ""
    return (
        f"{spec['pairs']} pairs of {spec['prompts']} prompts{data}; {spec['ties']}."
        f" In brackets: {spec['intervals']}, seed {spec['seed']}."
    )


def _row(name: str, figures: Result) -> list[str]:
    shown = ("accuracy", "longer_wins", "above_longer")
    return [name, str(figures["pairs"]), *(with_interval(figures[key]) for key in shown)]


def _first_wins(values: np.ndarray) -> Float[np.ndarray, " B"]:
    """1 where the first of two is larger, 1/2 where they are equal."""
    return (1 + np.sign(values[:, 0] - values[:, 1])) / 2


def _estimate(values: Float[np.ndarray, " N"], prompts: np.ndarray, seed: int) -> dict[str, float]:
    """The mean over pairs, with an interval over prompts."""
    _, prompt_of = np.unique(prompts, return_inverse=True)
    pairs = np.bincount(prompt_of).astype(np.float64)
    means = np.bincount(prompt_of, values) / pairs
    return statistics.estimate(means, seed=seed, weights=pairs)._asdict()


def _groups(names: Sequence[str]) -> dict[str, Bool[np.ndarray, " B"]]:
    return {name: np.array(names) == name for name in sorted(set(names))}


def _by_length(lengths: Int[np.ndarray, "B 2"]) -> dict[str, Bool[np.ndarray, " B"]]:
    ratio = lengths[:, 0] / np.maximum(lengths[:, 1], 1)
    return {name: (low <= ratio) & (ratio < high) for name, (low, high) in LENGTH_RATIOS.items()}


def _correlation(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Places in order; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
