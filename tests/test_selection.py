"""Facts about which responses are learned from."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_jax import selection
from rlft_jax.batch import Responses
from rlft_jax.objectives import dpo, sft
from tests import tiny

POLICY = tiny.policy()


def made(rewards: list[list[float]]) -> Responses:
    """Responses whose tokens, masks and log-probabilities tell prompt and place."""
    B, G = np.shape(rewards)
    number = np.arange(1, B * G + 1).reshape(B, G, 1)
    t = np.arange(5)
    lengths = (3 + number % 3)[..., 0].astype(np.int32)
    is_token = t < lengths[..., None]
    return Responses(
        tokens=np.where(is_token, number, 0).astype(np.int32),
        is_response=is_token & (t > 0),
        lengths=lengths,
        rewards=np.array(rewards, np.float32),
        reference_logprobs=np.where(is_token, -number, 0).astype(np.float32),
    )


def numbers(selected: Responses) -> list[list[int]]:
    """Which responses were selected; 0 for an empty place. Every field must tell the same."""
    found = selected.tokens.max(-1)
    assert selected.reference_logprobs is not None
    np.testing.assert_array_equal(selected.reference_logprobs.min(-1), -found)
    np.testing.assert_array_equal(selected.lengths, np.where(found > 0, 3 + found % 3, 0))
    np.testing.assert_array_equal(selected.is_response.sum(-1), np.maximum(selected.lengths - 1, 0))
    return found.tolist()


def test_the_best_is_kept_and_of_equals_the_first():
    responses = made([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [-1.0, -3.0, -1.0]])
    selected = selection.best(responses)
    assert numbers(selected) == [[2], [4], [7]]
    assert selected.rewards.tolist() == [[2], [1], [-1]]
    assert numbers(selection.best(responses, least=1.0)) == [[2], [4], [0]]


def test_best_and_worst_are_a_pair_unless_they_are_equal_or_close():
    responses = made([[0.5, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.25, 1.0]])
    selected = selection.best_and_worst(responses)
    assert numbers(selected) == [[2, 1], [0, 0], [7, 8]]
    assert selected.rewards.tolist() == [[2.0, 0.5], [0, 0], [1.0, 0.25]]
    assert numbers(selection.best_and_worst(responses, min_gap=0.75)) == [[2, 1], [0, 0], [7, 8]]
    assert numbers(selection.best_and_worst(responses, min_gap=1.0)) == [[2, 1], [0, 0], [0, 0]]


def test_all_pairs_are_sorted_by_their_gaps():
    selected = selection.all_pairs(made([[0.0, 3.0, 1.0], [2.0, 2.0, 5.0]]))
    assert numbers(selected) == [[2, 1], [2, 3], [3, 1], [6, 4], [6, 5], [0, 0]]
    selected = selection.all_pairs(made([[0.0, 3.0, 1.0], [2.0, 2.0, 5.0]]), min_gap=2.0, most=2)
    assert numbers(selected) == [[2, 1], [2, 3], [6, 4], [6, 5]]


def test_responses_of_which_nothing_is_learned_are_not_selected():
    """Cut-off responses keep a reward, but no token that the policy answers for."""
    responses = made([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    responses.is_response[0, 1] = False
    responses.is_response[1, 1:] = False
    assert numbers(selection.best(responses)) == [[3], [4]]
    assert numbers(selection.best_and_worst(responses)) == [[3, 1], [0, 0]]
    assert numbers(selection.all_pairs(responses))[:3] == [[3, 1], [0, 0], [0, 0]]


rewards = st.integers(1, 4).flatmap(
    lambda B: st.integers(2, 5).flatmap(
        lambda G: st.lists(
            st.lists(st.integers(-2, 2).map(float), min_size=G, max_size=G), min_size=B, max_size=B
        )
    )
)


@settings(deadline=None)
@given(rewards, st.sampled_from([0.0, 1.0, 2.5]))
def test_all_pairs_are_those_that_loops_find(given, min_gap):
    selected = selection.all_pairs(made(given), min_gap=min_gap)
    G = len(given[0])
    assert len(selected.tokens) == len(given) * G * (G - 1) // 2
    expected = {
        (1 + b * G + i, 1 + b * G + j)
        for b, row in enumerate(given)
        for i in range(G)
        for j in range(G)
        if row[i] > row[j] and row[i] - row[j] >= min_gap
    }
    found = [tuple(pair) for pair in numbers(selected) if any(pair)]
    assert len(found) == len(set(found))
    assert set(found) == expected


@settings(deadline=None)
@given(rewards)
def test_shapes_do_not_depend_on_rewards(given):
    B, G = np.shape(given)
    for name, select in selection.SELECTIONS.items():
        selected = select(made(given))
        share = {"all_pairs": G * (G - 1) / 2, "informative": 0.5}.get(name, 1)
        places = max(round(B * share), 1)
        assert selected.lengths.shape == (places, selection.GROUP.get(name, G))
        assert selected.tokens.shape == selected.is_response.shape == (*selected.lengths.shape, 5)


@pytest.mark.parametrize(
    ("name", "objective"),
    [("best", sft.objective), ("best_and_worst", dpo.objective), ("all_pairs", dpo.objective)],
)
def test_what_is_selected_trains_as_if_nothing_else_had_been_there(name, objective):
    """On-policy DPO and best-of-N distillation are a selection, and no trainer of their own."""
    responses = tiny.responses(prompts=4, group=3)
    assert responses.rewards is not None
    ties = responses.rewards.copy()
    ties[2] = 0.5
    select = selection.SELECTIONS[name]
    if name == "best":
        select = functools.partial(select, least=0.6)
    selected = select(responses._replace(rewards=ties))
    gradient, metrics = tiny.gradient(POLICY, objective, tiny.batch_of(selected, micro_batches=2))
    is_kept = selected.lengths[:, 0] > 0
    assert 0 < is_kept.sum() < len(is_kept)
    only = Responses(*(None if field is None else field[is_kept] for field in selected))
    expected, by_itself = tiny.gradient(POLICY, objective, tiny.batch_of(only))
    assert tiny.distance(gradient, expected) < 1e-6
    assert metrics["loss"].weight == by_itself["loss"].weight


def test_prompts_whose_responses_differ_most_are_kept_with_all_of_them():
    rewards = [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0]]
    selected = selection.informative(made(rewards), share=0.5)
    assert numbers(selected) == [[4, 5, 6], [10, 11, 12]]
    assert selected.rewards.tolist() == [rewards[1], rewards[3]]
    assert numbers(selection.informative(made(rewards), share=1.0)) == numbers(made(rewards))
    assert len(numbers(selection.informative(made(rewards), share=0.01))) == 1
