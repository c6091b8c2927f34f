"""Reward models: how good a text is, learnt from comparisons or from grades.

Bradley-Terry (Ouyang et al., 2022, arXiv:2203.02155, eq. 1) learns which of two texts is better.
Both go through one network in one forward pass, which for encoders is called siamese. Regression
learns the grades themselves.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft_jax.metrics import Mean, Metrics
from rlft_jax.texts import TextBatch

Loss = Literal["bradley_terry", "regression"]


@runtime_checkable
class RewardModel(Protocol):
    """Whatever gives every text of a micro-batch a score."""

    def scores(self, batch: TextBatch) -> Float[Array, "P G"]:
        """One score per text; of a text that is not real, any finite number."""
        ...


def objective(
    model: RewardModel,
    batch: TextBatch,
    *,
    loss: Loss = "bradley_terry",
    center_weight: int | float = 0.0,
) -> Metrics:
    """Scores the better text higher, or scores every text as it was graded.

    Args:
        model: Gives the scores.
        batch: Pairs with the better text first, for Bradley-Terry: with `margins`, a pair's scores
            have to differ by more than its margin (Touvron et al., 2023, arXiv:2307.09288, eq. 2).
            For regression any groups with `targets`.
        loss: What is learnt. It is a mean over pairs, or over texts for regression.
        center_weight: Weight of the squared sum of a pair's scores, which Bradley-Terry leaves
            free to drift (Eisenstein et al., 2023, arXiv:2312.09244, eq. 2); 0.01 is usual.
    """
    scores_PG = jnp.where(batch.is_real, model.scores(batch).astype(jnp.float32), 0)
    learnt = (
        _regression(scores_PG, batch)
        if loss == "regression"
        else _bradley_terry(scores_PG, batch, center_weight)
    )
    return {**learnt, "mean_reward": Mean.of(scores_PG, batch.is_real)}


def _bradley_terry(
    scores: Float[Array, "P G"], batch: TextBatch, center_weight: int | float
) -> Metrics:
    """TRL's names; its smallest and largest reward of a batch are no means, and do not add up."""
    if scores.shape[1] != 2:
        raise ValueError(
            f"Bradley-Terry compares 2 texts, but each prompt of the batch has {scores.shape[1]}."
            " Give it pairs, or set config.objective.loss = 'regression'."
        )
    chosen_P, rejected_P = scores.T
    is_pair_P = batch.is_real.all(-1)
    difference_P = chosen_P - rejected_P
    margins_P = 0.0 if batch.margins is None else batch.margins
    loss_P = -jax.nn.log_sigmoid(difference_P - margins_P)
    loss_P += center_weight * (chosen_P + rejected_P) ** 2
    return {
        "loss": Mean.of(loss_P, is_pair_P),
        "accuracy": Mean.of(difference_P > 0, is_pair_P),
        "margin": Mean.of(difference_P, is_pair_P),
    }


def _regression(scores: Float[Array, "P G"], batch: TextBatch) -> Metrics:
    if batch.targets is None:
        raise ValueError(
            "Regression needs `batch.targets`, but the batch has none. Read rows with scores, or"
            " set config.objective.loss = 'bradley_terry'."
        )
    error_PG = jnp.where(batch.is_real, scores - batch.targets, 0)
    return {
        "loss": Mean.of(error_PG**2, batch.is_real),
        "mean_absolute_error": Mean.of(jnp.abs(error_PG), batch.is_real),
    }


def unused(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the settings of `objective`: those that the chosen loss does not use."""
    if settings["loss"] == "regression" and settings["center_weight"]:
        return [
            f"config.objective.center_weight = {settings['center_weight']} has no effect with"
            " config.objective.loss = 'regression', whose targets fix the mean; set it to 0."
        ]
    return []
