"""Estimators against counting all subsets, and intervals against what they promise."""

import itertools
import math

import numpy as np
import pytest

from rlft_jax import statistics

GENERATOR = np.random.default_rng(0)
CORRECT = GENERATOR.random((20, 6)) < GENERATOR.random((20, 1))
SCORES = GENERATOR.normal(size=(20, 6))
SIZES = range(1, 7)


def over_subsets(chosen, n, samples=6):
    """Mean of `chosen(problem, subset)` over all subsets of n samples, per problem."""
    subsets = list(itertools.combinations(range(samples), n))
    return [np.mean([chosen(b, list(s)) for s in subsets]) for b in range(len(CORRECT))]


@pytest.mark.parametrize("k", SIZES)
def test_pass_at_k_counts_the_subsets_with_a_correct_sample(k):
    counted = over_subsets(lambda b, s: CORRECT[b, s].any(), k)
    np.testing.assert_allclose(statistics.pass_at_k(CORRECT, k), counted, atol=1e-12)


def test_pass_at_k_is_the_published_formula_where_factorials_are_huge():
    correct = np.arange(1000)[None] < 3
    exact = 1 - math.comb(997, 400) / math.comb(1000, 400)
    assert statistics.pass_at_k(correct, 400)[0] == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_best_by_score_is_the_mean_over_all_subsets(n):
    counted = over_subsets(lambda b, s: CORRECT[b, s[SCORES[b, s].argmax()]], n)
    np.testing.assert_allclose(statistics.best_by_score(CORRECT, SCORES, n), counted, atol=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_equal_scores_are_chosen_among_at_random(n):
    coarse = np.round(SCORES)

    def chance(b, subset):
        best = coarse[b, subset] == coarse[b, subset].max()
        return CORRECT[b, subset][best].mean()

    counted = over_subsets(chance, n)
    np.testing.assert_allclose(statistics.best_by_score(CORRECT, coarse, n), counted, atol=1e-12)


def test_all_selectors_agree_with_the_verifier_on_one_sample():
    answers = [[str(c) for c in row] for row in CORRECT]
    mean = CORRECT.mean(-1)
    np.testing.assert_allclose(statistics.pass_at_k(CORRECT, 1), mean)
    np.testing.assert_allclose(statistics.best_by_score(CORRECT, SCORES, 1), mean)
    np.testing.assert_allclose(statistics.best_by_majority(CORRECT, answers, SCORES, 1), mean)


@pytest.mark.parametrize(
    ("answers", "scores", "winner"),
    [
        (["a", "b", "b", "c"], [0, -9, -8, 0], 2),  # most votes, whatever the scores
        (["a", "a", "b", "b"], [-3, -4, -5, -1], 3),  # of equals, the highest score
        ([None, None, None, "a"], [0, 0, 0, -9], 3),  # no answer never wins
        ([None, None, None, None], [-3, -1, -2, -4], 1),  # unless there is nothing else
        ([0, 0, "x", "y"], [-1, -2, 0, 0], 0),  # answers need not be text, nor truthy
    ],
)
def test_the_majority_is_as_documented(answers, scores, winner):
    correct = np.arange(4)[None] == winner
    scores = np.array([scores], float)
    assert statistics.best_by_majority(correct, [answers], scores, 4) == [1.0]
    assert statistics.best_by_majority(~correct, [answers], scores, 4) == [0.0]


def test_a_majority_of_fewer_is_the_mean_over_blocks():
    correct = np.array([[True, False, False, False, True]])
    answers, scores = [["a", "b", "c", "c", "d"]], np.array([[-1.0, -2.0, -3.0, -4.0, 0.0]])
    # (a b) goes to a, (c c) to c; the fifth sample fills no block.
    assert statistics.best_by_majority(correct, answers, scores, 2) == [0.5]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        values = (generator.random((100, 4)) < 0.3).mean(-1)
        low, high = statistics.bootstrap(values, seed=trial, resamples=500)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_interval_has_the_width_of_the_normal_one_for_many_problems():
    values = np.random.default_rng(2).normal(size=2000)
    low, high = statistics.bootstrap(values, seed=0)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)


def test_the_interval_follows_from_the_seed_alone():
    values = CORRECT.mean(-1)
    again = statistics.bootstrap(values.copy(), seed=3)
    assert statistics.bootstrap(values, seed=3) == again
    assert statistics.bootstrap(values, seed=4) != again


def test_problems_are_drawn_again_and_not_samples():
    # Sixteen copies of a sample say no more than one.
    values = np.repeat(CORRECT[:, :1], 16, axis=1).mean(-1)
    assert statistics.bootstrap(values, seed=0) == statistics.bootstrap(CORRECT[:, 0] * 1.0, seed=0)


def test_a_weighted_mean_draws_problems_with_all_that_they_weigh():
    # Half the problems hold nine tenths of the weight.
    values, weights = np.repeat([1.0, 0.0], 50), np.repeat([9.0, 1.0], 50)
    found = statistics.estimate(values, seed=0, weights=weights)
    assert found.value == pytest.approx(0.9)
    draws = np.random.default_rng(1).binomial(100, 0.5, size=100_000)
    low, high = np.quantile(9 * draws / (9 * draws + 100 - draws), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)
    same = statistics.estimate(values, seed=0, weights=np.full(100, 7.0))
    assert same == pytest.approx(statistics.estimate(values, seed=0))


def test_more_samples_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="7 samples cannot be drawn from the 6"):
        statistics.pass_at_k(CORRECT, 7)
    with pytest.raises(ValueError, match="no problems"):
        statistics.bootstrap(np.zeros(0), seed=0)
