"""What reward models learn from pairs and from grades, by hand and however a batch is cut."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rlft_jax.objectives import reward_model
from rlft_jax.packing import first_fit
from rlft_jax.texts import Text, TextBatch, Texts, pack
from tests import tiny

REGRESSION = functools.partial(reward_model.objective, loss="regression")


class Sums(nnx.Module):
    """Scores a text by a number for each of its tokens."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = nnx.Param(jnp.asarray(numbers, jnp.float32))

    def scores(self, batch: TextBatch) -> jax.Array:
        P, G = batch.is_real.shape
        of_tokens = self.numbers[...][batch.tokens]
        sums = jax.ops.segment_sum(of_tokens.ravel(), batch.segments.ravel(), P * G + 1)
        return sums[1:].reshape(P, G)


def policy(numbers: np.ndarray) -> tiny.Policy:
    graph, params = nnx.split(Sums(numbers))
    return tiny.Policy(graph, nnx.to_pure_dict(params), {})


def texts(groups: list[list[list[int]]], **fields) -> Texts:
    made = [[Text(np.array(t, np.int32), np.zeros(len(t), np.int32)) for t in g] for g in groups]
    fields = {name: np.array(value, np.float32) for name, value in fields.items()}
    return Texts.of(made)._replace(**fields)


def laid(texts: Texts, micro_batches: int = 1) -> TextBatch:
    packing = first_fit(texts.lengths, tokens=8, micro_batches=micro_batches)
    return jax.tree.map(jnp.asarray, pack(texts, packing))


def metrics(scores: list[list[float]], objective=reward_model.objective, **fields) -> dict:
    """Metrics of texts with these scores."""
    flat = np.array(scores).ravel()
    groups = np.arange(flat.size).reshape(np.shape(scores))[..., None].tolist()
    batch = tiny.first_micro_batch(laid(texts(groups, **fields)))
    return objective(Sums(flat), batch)


def values(means: dict) -> dict[str, float]:
    return {name: float(mean.value) for name, mean in means.items()}


def test_a_pair_is_worth_what_one_works_out_by_hand():
    found = values(metrics([[1.0, 0.0], [-0.5, 1.5]]))
    # -log sigmoid(1) = log(1 + e^-1); the other pair is the wrong way round by 2.
    loss = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2
    assert found == pytest.approx(
        {"loss": loss, "accuracy": 0.5, "margin": -0.5, "mean_reward": 0.5}, rel=1e-6
    )


def test_equal_scores_cost_ln_2_and_win_nothing():
    found = values(metrics([[3.0, 3.0]]))
    assert found["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert found["accuracy"] == 0


def test_a_margin_is_subtracted_from_the_difference():
    found = values(metrics([[1.0, 0.0], [2.0, 0.0]], margins=[0.5, 3.0]))
    assert found["loss"] == pytest.approx((0.4740770 + 1.3132617) / 2, rel=1e-6)
    assert (found["accuracy"], found["margin"]) == (1.0, 1.5)


def test_centring_punishes_the_sum_of_a_pair_and_nothing_else_does():
    plain = values(metrics([[1.0, 0.5]]))
    shifted = values(metrics([[11.0, 10.5]]))
    assert shifted["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    centred = functools.partial(reward_model.objective, center_weight=0.01)
    assert values(metrics([[1.0, 0.5]], centred))["loss"] == pytest.approx(
        plain["loss"] + 0.01 * 1.5**2, rel=1e-6
    )


def test_regression_is_the_squared_error_of_each_text():
    found = metrics([[1.0], [4.0], [-2.0]], REGRESSION, targets=[[3.0], [4.0], [-1.0]])
    assert values(found) == pytest.approx(
        {"loss": 5 / 3, "mean_absolute_error": 1.0, "mean_reward": 1.0}, rel=1e-6
    )
    assert found["loss"].weight == 3
    # Twice this mean is the paper's mse(r_w, score_chosen) + mse(r_l, score_rejected).
    pair = metrics([[1.0, 4.0]], REGRESSION, targets=[[3.0, 4.5]])
    assert 2 * float(pair["loss"].value) == pytest.approx(2**2 + 0.5**2, rel=1e-6)


def test_means_are_over_pairs_and_over_texts():
    found = metrics([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    assert {name: float(mean.weight) for name, mean in found.items()} == {
        "loss": 3,
        "accuracy": 3,
        "margin": 3,
        "mean_reward": 6,
    }


def random_texts(prompts: int, group: int, **fields) -> Texts:
    rng = np.random.default_rng(0)
    groups = [
        [rng.integers(1, 20, rng.integers(1, 8)).tolist() for _ in range(group)]
        for _ in range(prompts)
    ]
    return texts(groups, **{name: rng.standard_normal(shape) for name, shape in fields.items()})


NUMBERS = np.random.default_rng(1).standard_normal(20)
CASES = {
    "pairs": (
        random_texts(8, 2, margins=8),
        functools.partial(reward_model.objective, center_weight=0.1),
    ),
    "grades": (random_texts(8, 1, targets=(8, 1)), REGRESSION),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_change_nothing(case, micro_batches):
    made, objective = CASES[case]
    whole, expected = tiny.gradient(policy(NUMBERS), objective, laid(made))
    gradient, found = tiny.gradient(policy(NUMBERS), objective, laid(made, micro_batches))
    assert tiny.distance(gradient, whole) < 1e-6
    for name in ("loss", "mean_reward"):
        np.testing.assert_allclose(found[name].value, expected[name].value, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_texts_that_fill_a_batch_up_count_for_nothing(case):
    made, objective = CASES[case]
    whole, expected = tiny.gradient(policy(NUMBERS), objective, laid(made))
    twice = lambda x: None if x is None else np.concatenate([x, x])
    filled = Texts(*map(twice, made))
    filled.lengths[8:] = 0
    gradient, found = tiny.gradient(policy(NUMBERS), objective, laid(filled, 4))
    assert tiny.distance(gradient, whole) < 1e-6
    for name in ("loss", "mean_reward"):
        assert found[name].weight == expected[name].weight
        np.testing.assert_allclose(found[name].value, expected[name].value, rtol=1e-6)


def test_the_gradient_is_that_of_the_difference():
    # d/ds -log sigmoid(s_0 - s_1) = -+ sigmoid(s_1 - s_0)
    gradient, _ = tiny.gradient(
        policy(np.array([0.0, 1.0, 0.5])), reward_model.objective, laid(texts([[[1], [2]]]))
    )
    slope = 1 / (1 + math.exp(0.5))
    np.testing.assert_allclose(gradient["numbers"], [0, -slope, slope], rtol=1e-6)


def test_batches_of_another_loss_are_refused():
    with pytest.raises(ValueError, match="compares 2 texts, but each prompt of the batch has 1"):
        metrics([[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"needs `batch\.targets`"):
        metrics([[1.0], [0.0]], REGRESSION)


def test_settings_that_the_loss_does_not_use_are_named():
    assert reward_model.unused({"loss": "bradley_terry", "center_weight": 0.01}) == []
    assert reward_model.unused({"loss": "regression", "center_weight": 0.0}) == []
    (problem,) = reward_model.unused({"loss": "regression", "center_weight": 0.01})
    assert "config.objective.center_weight = 0.01 has no effect" in problem
