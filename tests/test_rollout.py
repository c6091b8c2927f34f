"""A rollout deals out what the policy said, and can be stopped anywhere."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.batch import Responses
from rlft_jax.data.pipeline import Batches, batches
from rlft_jax.objectives import rloo
from rlft_jax.rollout import Engine, Moments, Rollout, repetition, rollout_metrics
from rlft_jax.sampling.transcripts import Completion
from rlft_jax.tasks.problem import Problem

PROBLEMS = [Problem(f"problem {i}", {"number": i}) for i in range(10)]
PARAMS = jnp.zeros(())


def stream(prompts: int = 4, process: int = 0, processes: int = 1) -> Batches[Problem]:
    """This process' share of the problems."""
    return batches([PROBLEMS], prompts=prompts, seed=0, process=process, processes=processes)


def sample(
    params: Any, prompts: list[list[int]], samples: int, numbers: list[int]
) -> list[list[Completion]]:
    """Completions that depend on the policy, the prompt and the number of the request alone."""
    return [
        [completion(float(params), prompt, number, g) for g in range(samples)]
        for prompt, number in zip(prompts, numbers)
    ]


def completion(params: float, prompt: list[int], number: int, sample: int) -> Completion:
    """Random, and cut off when even in its first token."""
    rng = np.random.default_rng([int(params), *prompt, number, sample])
    tokens = rng.integers(1, 50, rng.integers(1, 6))
    return Completion(tokens, -rng.random(len(tokens)).astype(np.float32), bool(tokens[0] % 2))


def reward(problems: Sequence[Problem], texts: Sequence[str]) -> tuple[np.ndarray, dict]:
    """The length of the text, and a number for every problem."""
    length = np.array([len(text) for text in texts], np.float64)
    number = np.array([p.columns["number"] for p in problems], np.float64)
    return length + number, {"length": length, "number": number}


def scored(by: float):
    """A policy that gives every response token the same log-probability."""
    return lambda params, responses: np.where(responses.is_response, by, 0).astype(np.float32)


def kl_alone(
    rewards: np.ndarray, is_response: np.ndarray, old: np.ndarray, reference: np.ndarray, *_: Any
) -> np.ndarray:
    """Advantages that are the KL's estimates."""
    return np.where(is_response, old - reference, 0)


def engine(**changes: Any) -> Engine:
    parts = dict(
        encode=lambda problem: [problem.columns["number"], 7],
        decode=lambda ids: " ".join(map(str, ids)),
        sample=sample,
        reward=reward,
        advantages=lambda *fields: rloo.advantages(*fields),
    )
    return Engine(**{**parts, **changes})


def draws(source: Rollout, count: int, first: int = 0) -> list[Responses]:
    """Some steps, each with a policy of its own."""
    return [source.next(jnp.asarray(float(first + i)), first + i).responses for i in range(count)]


def assert_same(actual: Sequence[Responses], expected: Sequence[Responses]) -> None:
    """Bit for bit, and type by type."""
    for a, b in zip(actual, expected, strict=True):
        for x, y in zip(a, b):
            assert (x is None) == (y is None)
            if x is not None:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)


def test_a_rollout_holds_what_was_sampled():
    source = Rollout(stream(), engine(), responses=3)
    draw = source.next(PARAMS, 1)
    made, problems = draw.responses, next(stream())
    for b, g in itertools.product(range(4), range(3)):
        prompt = [problems[b].columns["number"], 7]
        said = completion(0, prompt, b, g)
        end = made.lengths[b, g]
        np.testing.assert_array_equal(made.tokens[b, g, :end], [*prompt, *said.tokens])
        np.testing.assert_array_equal(
            np.nonzero(made.is_response[b, g])[0], 2 + np.arange(len(said.tokens))
        )
        np.testing.assert_array_equal(made.sampled_logprobs[b, g, 2:end], said.logprobs)
        text = " ".join(map(str, said.tokens))
        assert made.rewards[b, g] == len(text) + problems[b].columns["number"]
    assert made.rewards.dtype == made.advantages.dtype == np.float32
    expected = rloo.leave_one_out(made.rewards.astype(np.float64))
    np.testing.assert_allclose(made.advantages[:, :, 2], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(draw.metrics["reward"], made.rewards.mean(), rtol=1e-6)
    assert [row["reward"] for row in source.table] == made.rewards.ravel()[:8].tolist()


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("stop", range(8))
def test_a_rollout_goes_on_where_it_was_stopped(stop, overlap):
    """Also between two updates, and between two minibatches, of one rollout."""
    make = lambda: Rollout(
        stream(),
        engine(old_score=scored(-1.0), reference_score=scored(-2.0)),
        responses=2,
        updates=2,
        minibatches=2,
        overlap=overlap,
    )
    expected = draws(make(), 10)
    source = make()
    draws(source, stop)
    resumed = make()
    resumed.restore(source.state())
    assert_same(draws(resumed, 10 - stop, first=stop), expected[stop:])


def test_every_update_sees_every_minibatch_of_one_rollout():
    source = Rollout(
        stream(), engine(old_score=scored(-1.0)), responses=2, updates=2, minibatches=2
    )
    seen = draws(source, 5)
    assert_same(seen[2:4], seen[:2])
    prompts = [set(part.tokens[:, 0, 0].tolist()) for part in seen]
    assert [len(p) for p in prompts] == [2] * 5
    assert not prompts[0] & prompts[1]
    assert seen[4].lengths.tolist() != seen[0].lengths.tolist()


def test_metrics_and_texts_last_as_long_as_their_rollout():
    make = lambda: Rollout(stream(), engine(old_score=scored(-1.0)), responses=2, updates=2)
    source = make()
    first, second, third = (source.next(PARAMS, i).metrics["reward"] for i in range(3))
    assert first == second != third
    resumed = make()
    resumed.restore(source.state())
    assert resumed.table == source.table
    assert resumed.next(PARAMS, 4).metrics["reward"] == third


def test_several_processes_sample_what_one_would():
    alone = Rollout(stream(4), engine(), responses=2)
    two = [Rollout(stream(2, p, 2), engine(), p, 2, responses=2) for p in range(2)]
    for whole, *parts in zip(draws(alone, 3), *(draws(source, 3) for source in two)):
        for b in range(4):
            part, at = parts[b // 2], b % 2
            np.testing.assert_array_equal(part.lengths[at], whole.lengths[b])
            for name in ("tokens", "sampled_logprobs", "advantages"):
                shorter = getattr(part, name)[at]
                T = min(shorter.shape[-1], whole.tokens.shape[-1])
                np.testing.assert_array_equal(shorter[:, :T], getattr(whole, name)[b][:, :T])
            np.testing.assert_array_equal(part.rewards[at], whole.rewards[b])


def test_a_minibatch_has_the_prompts_that_it_has_with_one_process():
    shared = dict(responses=2, minibatches=2, updates=2)
    score = dict(old_score=scored(-1.0))
    alone = Rollout(stream(8), engine(**score), **shared)
    two = [Rollout(stream(4, p, 2), engine(**score), p, 2, **shared) for p in range(2)]
    for whole, *parts in zip(draws(alone, 4), *(draws(source, 4) for source in two)):
        prompts = [part.tokens[:, 0, 0].tolist() for part in parts]
        assert [len(p) for p in prompts] == [2, 2]
        assert prompts[0] + prompts[1] == whole.tokens[:, 0, 0].tolist()


def test_what_a_rollout_was_like_is_told_under_the_names_of_trl():
    metrics = rollout_metrics(
        np.array([[1.0, 0.0], [0.1, 0.1]], np.float32),
        np.array([[3, 5], [2, 8]]),
        np.array([[True, True], [True, False]]),
        np.array([[0.0, 0.5], [0.0, 0.0]]),
        {"verifier": np.array([1.0, 0.0, 0.1, 0.1])},
    )
    deviation = np.std([1, 0, 0.1, 0.1], ddof=1)
    expected = {
        "reward": 0.3,
        "completions/repetition": 0.125,
        "reward_std": deviation,
        "frac_reward_zero_std": 0.5,
        "completions/mean_length": 4.5,
        "completions/min_length": 2,
        "completions/max_length": 8,
        "completions/mean_terminated_length": 10 / 3,
        "completions/min_terminated_length": 2,
        "completions/max_terminated_length": 5,
        "completions/clipped_ratio": 0.25,
        "rewards/verifier/mean": 0.3,
        "rewards/verifier/std": deviation,
    }
    assert metrics == pytest.approx(expected, rel=1e-6)


def test_lengths_of_what_ended_are_0_where_nothing_did():
    lengths, none = np.full((2, 2), 4), np.zeros((2, 2), bool)
    metrics = rollout_metrics(np.zeros((2, 2), np.float32), lengths, none, np.zeros((2, 2)), {})
    for kind in ("mean", "min", "max"):
        assert metrics[f"completions/{kind}_terminated_length"] == 0
        assert metrics[f"completions/{kind}_length"] == 4


def test_no_request_has_a_number_twice():
    seen = []

    def note(params, prompts, samples, numbers):
        seen.extend(numbers)
        return sample(params, prompts, samples, numbers)

    for p in range(2):
        draws(Rollout(stream(2, p, 2), engine(sample=note), p, 2, responses=2), 3)
    assert sorted(seen) == list(range(12))


def test_what_was_cut_off_loses_reward():
    plain = Rollout(stream(), engine(), responses=3).next(PARAMS, 1)
    source = Rollout(stream(), engine(), responses=3, missing_stop_penalty=5.0)
    draw = source.next(PARAMS, 1)
    first = np.take_along_axis(
        draw.responses.tokens, draw.responses.is_response.argmax(-1)[..., None], -1
    )[..., 0]
    is_cut = first % 2 == 0
    assert 0 < is_cut.sum() < 12
    lost = plain.responses.rewards - draw.responses.rewards
    np.testing.assert_array_equal(lost, 5.0 * is_cut)
    assert draw.responses.rewards.dtype == np.float32
    np.testing.assert_allclose(draw.metrics["reward"], draw.responses.rewards.mean())
    # Parts are reported as the functions gave them.
    assert draw.metrics["rewards/length/mean"] == plain.metrics["rewards/length/mean"]
    np.testing.assert_allclose(draw.metrics["completions/clipped_ratio"], is_cut.mean())


def test_what_was_cut_off_may_teach_nothing_and_is_a_baseline_still():
    plain = Rollout(stream(), engine(), responses=3).next(PARAMS, 1).responses
    made = Rollout(stream(), engine(), responses=3, mask_truncated=True).next(PARAMS, 1)
    masked, is_cut = made.responses, ~made.responses.is_response.any(-1)
    assert 0 < is_cut.sum() < 12
    assert not masked.advantages[is_cut].any()
    np.testing.assert_array_equal(masked.advantages[~is_cut], plain.advantages[~is_cut])
    np.testing.assert_array_equal(masked.rewards, plain.rewards)
    np.testing.assert_allclose(made.metrics["completions/clipped_ratio"], is_cut.mean())


def test_scores_reach_the_advantages():
    made = draws(
        Rollout(
            stream(),
            engine(
                old_score=scored(-1.0),
                reference_score=scored(-3.0),
                advantages=lambda *fields: rloo.advantages(*fields, kl_weight=0.5),
            ),
            responses=2,
        ),
        1,
    )[0]
    tokens = made.is_response.sum(-1)
    expected = rloo.leave_one_out(made.rewards.astype(np.float64) - 0.5 * 2 * tokens)
    np.testing.assert_allclose(made.advantages[:, :, 2], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shared", "is_kept"), [({}, False), ({"updates": 2}, True)])
def test_a_single_update_needs_no_old_logprobs_for_its_ratio(shared, is_kept):
    """It compares the policy with itself: then the ratio is 1 to the last bit."""
    source = Rollout(stream(), engine(old_score=scored(-1.0)), responses=2, **shared)
    assert (draws(source, 1)[0].old_logprobs is not None) == is_kept


def test_the_samplers_logprobs_stand_in_where_the_trainer_scores_nothing_again():
    parts = dict(reference_score=scored(-1.0), advantages=kl_alone)
    (drawn,) = draws(Rollout(stream(), engine(**parts), responses=2, updates=2), 1)
    np.testing.assert_array_equal(drawn.old_logprobs, drawn.sampled_logprobs)
    np.testing.assert_array_equal(
        drawn.advantages, np.where(drawn.is_response, drawn.sampled_logprobs + 1, 0)
    )


@pytest.mark.parametrize("rollouts", [0, 2])
@pytest.mark.parametrize("how", [{}, {"overlap": True, "normalize_rewards": True}], ids=str)
def test_what_a_reward_failed_on_is_not_lost(rollouts, how):
    broken = False

    def fails(problems, texts):
        if broken:
            raise ValueError("reward 'verifier' failed")
        return reward(problems, texts)

    source = Rollout(stream(), engine(reward=fails), responses=2, **how)
    draws(source, rollouts)
    broken = True
    with pytest.raises(ValueError, match="verifier"):
        draws(source, 1, first=rollouts)
    # Mended, it rewards the same responses, whatever the policy has become.
    broken = False
    resumed = Rollout(stream(), engine(reward=fails), responses=2, **how)
    resumed.restore(source.state())
    expected = draws(Rollout(stream(), engine(), responses=2, **how), rollouts + 1)[-1:]
    assert_same(draws(source, 1, first=7), expected)
    assert_same(draws(resumed, 1, first=7), expected)
    assert_same(draws(resumed, 1, first=8), draws(source, 1, first=8))


def test_an_overlapping_rollout_is_sampled_a_step_before_it_is_learned_from():
    """Rewards and scores come when it is: those of the policy that learns."""
    by = lambda params, responses: scored(-float(params))(params, responses)
    how = dict(responses=2, updates=2)
    ahead = draws(Rollout(stream(), engine(old_score=by), overlap=True, **how), 6)
    turned = lambda steps: [np.asarray(ahead[i].old_logprobs).min() for i in steps]
    assert turned([0, 2, 4]) == [0, -2, -4]
    # The same problems and request numbers, sampled by the policies of steps 0, 1 and 3.
    alone = Rollout(stream(), engine(), **how)
    for step, policy in ((0, 0), (2, 1), (4, 3)):
        expected = draws(alone, 1, first=policy)[0]
        draws(alone, 1)
        for name in ("tokens", "sampled_logprobs", "rewards"):
            np.testing.assert_array_equal(getattr(ahead[step], name), getattr(expected, name))


def test_running_moments_are_those_of_all_numbers():
    values = np.random.default_rng(0).normal(3.0, 2.0, 100)
    moments = Moments()
    for part in np.split(values, [7, 8, 60]):
        moments = moments.with_more(part)
    assert moments.count == 100
    assert moments.mean == pytest.approx(values.mean(), rel=1e-12)
    assert moments.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert Moments().deviation == 0


def test_rewards_are_brought_to_the_scale_of_all_so_far_and_lose_penalties_after():
    first, second = np.array([[1.0, 3.0]], np.float32), np.array([[5.0, 7.0]], np.float32)
    is_finished, lengths = np.array([[True, False]]), np.array([[2, 4]])
    source = Rollout(
        stream(), engine(), normalize_rewards=True, length_penalty=0.5, missing_stop_penalty=10.0
    )
    seen = Moments().with_more(first)
    shaped = source._shaped(seen, first, lengths, is_finished)
    np.testing.assert_allclose(shaped, [[-(0.5**0.5) - 1, 0.5**0.5 - 10 - 2]], rtol=1e-5)
    again = Rollout(stream(), engine(), normalize_rewards=True)
    expected = (second - 4.0) / np.std([1, 3, 5, 7], ddof=1)
    found = again._shaped(seen.with_more(second), second, lengths, is_finished)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = Rollout(stream(), engine())
    np.testing.assert_array_equal(plain._shaped(seen, first, lengths, is_finished), first)


def test_repetition_is_the_share_of_runs_that_came_before():
    assert repetition(list(range(20))) == 0
    assert repetition([1] * 23) == pytest.approx(19 / 20)
    assert repetition([1, 2, 3]) == 0
