import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rlft_jax.judges import win_rate
from rlft_jax.judges.win_rate import length_controlled, position_bias, preferences_by_score


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(B, *, theta, phi, surplus=0):
    """Preferences and lengths that the model of the paper would give."""
    random = np.random.default_rng(0)
    lengths, opponent_lengths = random.integers(100, 2000, (2, B))
    lengths = lengths + surplus
    differences = (lengths - opponent_lengths).astype(float)
    chance = sigmoid(theta + phi * np.tanh(differences / differences.std()))
    return (random.random(B) < chance).astype(float), lengths, opponent_lengths


def test_equal_scores_are_ties():
    scores = np.array([1.0, -1.0, 0.25, -0.0])
    assert preferences_by_score(scores, np.array([0.5, 0.5, 0.25, 0.0])).tolist() == [
        1,
        0,
        0.5,
        0.5,
    ]


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"2 of 3 prompts .* the first is prompt 1"):
        preferences_by_score(np.array([0.0, np.nan, 1.0]), np.array([0.0, 0.0, np.inf]))


def test_a_win_rate_that_length_explains_is_a_half_at_equal_length():
    preferences, lengths, opponent_lengths = drawn(1500, theta=0.0, phi=2.0, surplus=800)
    found = length_controlled(preferences, lengths, opponent_lengths, seed=0)
    assert preferences.mean() > 0.7
    assert found.win_rate.low < 0.5 < found.win_rate.high
    assert found.length_weight == pytest.approx(2.0, abs=0.4)
    assert found.spread == pytest.approx((lengths - opponent_lengths).std())


def test_quality_survives_where_length_is_to_its_disadvantage():
    preferences, lengths, opponent_lengths = drawn(1500, theta=1.0, phi=1.5)
    found = length_controlled(preferences, lengths, opponent_lengths, seed=0)
    assert found.win_rate.value == pytest.approx(sigmoid(1.0), abs=0.04)
    assert found.win_rate.low < sigmoid(1.0) < found.win_rate.high


@pytest.mark.parametrize("B", [7, 300])
def test_the_fit_is_the_optimum_that_scipy_finds(B):
    preferences, lengths, opponent_lengths = drawn(B, theta=0.4, phi=-1.0)
    preferences = np.clip(preferences + np.random.default_rng(1).choice([-0.25, 0, 0.25], B), 0, 1)
    found = length_controlled(preferences, lengths, opponent_lengths, seed=0)
    differences = (lengths - opponent_lengths).astype(float)
    bounded = np.tanh(differences / differences.std())

    def loss(weights):
        logits = weights[0] + weights[1] * bounded
        likelihood = -preferences * np.logaddexp(0, -logits) - (1 - preferences) * np.logaddexp(
            0, logits
        )
        return -likelihood.sum() + 0.5 * win_rate._RIDGE * weights[1] ** 2

    best = minimize(loss, [0.0, 0.0], tol=1e-12).x
    assert found.win_rate.value == pytest.approx(sigmoid(best[0]), abs=1e-5)
    assert found.length_weight == pytest.approx(best[1], abs=1e-4)


def test_without_differences_in_length_it_is_the_win_rate():
    preferences = np.array([1.0, 1.0, 0.0, 0.5])
    same = np.array([5, 6, 7, 8])
    found = length_controlled(preferences, same, same, seed=0)
    assert found.win_rate.value == pytest.approx(0.625)
    assert (found.length_weight, found.spread) == (0, 0)


@pytest.mark.parametrize("all_alike", [0.0, 1.0])
def test_a_model_that_always_or_never_wins_does_so_at_any_length(all_alike):
    lengths, opponent_lengths = np.arange(9), np.arange(9) ** 2
    found = length_controlled(np.full(9, all_alike), lengths, opponent_lengths, seed=0)
    assert found.win_rate == (all_alike, all_alike, all_alike)


def test_length_that_explains_everything_leaves_a_half():
    lengths, opponent_lengths = np.arange(100), np.full(100, 50) - (np.arange(100) == 50)
    preferences = (lengths > opponent_lengths).astype(float)
    found = length_controlled(preferences, lengths, opponent_lengths, seed=0)
    assert found.win_rate.value == pytest.approx(0.5, abs=0.06)
    assert found.length_weight > 5


def test_swapping_the_models_swaps_the_figures():
    preferences, lengths, opponent_lengths = drawn(50, theta=0.5, phi=1.0)
    one = length_controlled(preferences, lengths, opponent_lengths, seed=0)
    other = length_controlled(1 - preferences, opponent_lengths, lengths, seed=0)
    assert other.win_rate.value == pytest.approx(1 - one.win_rate.value, abs=1e-7)
    assert other.win_rate.low == pytest.approx(1 - one.win_rate.high, abs=1e-7)
    assert other.length_weight == pytest.approx(one.length_weight, abs=1e-6)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
            st.integers(0, 50),
            st.sampled_from([0, 7, 10**6]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_set_of_preferences_has_a_figure(rows):
    preferences, lengths, opponent_lengths = map(np.array, zip(*rows))
    found = length_controlled(preferences, lengths, opponent_lengths, seed=0)
    assert 0 <= found.win_rate.low <= found.win_rate.high <= 1
    assert 0 <= found.win_rate.value <= 1


def test_no_preferences_are_refused():
    with pytest.raises(ValueError, match="no preferences"):
        length_controlled(np.zeros(0), np.zeros(0, int), np.zeros(0, int), seed=0)


def test_a_judge_that_always_takes_the_first_shows():
    ones = np.ones(4)
    assert position_bias(ones, 1 - ones) == {
        "flipped": 1.0,
        "unsteady": 1.0,
        "first_preferred": 1.0,
    }
    assert position_bias(ones, ones) == {"flipped": 0.0, "unsteady": 0.0, "first_preferred": 0.5}
