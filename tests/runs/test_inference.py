"""A policy at work does the same on eight devices as on one, with fewer rows than devices too."""

import jax
import numpy as np
import pytest

from rlft_jax.batch import Example, Responses
from rlft_jax.runs import inference
from rlft_jax.runs.inference import Replicas, load_replicas, sample_from
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.training.feeding import Feed

TEXTS = ["3,5,7=15:", "2,2,9=13:", "1"]


@pytest.fixture(scope="module")
def eight(tiny) -> Replicas:
    return load_replicas(str(tiny.base))


@pytest.fixture(scope="module")
def one(tiny, one_device) -> Replicas:
    return load_replicas(str(tiny.base), mesh=one_device)


@pytest.fixture(scope="module")
def prompts(eight) -> list[list[int]]:
    return [eight.policy.origin.tokenizer.encode(text) for text in TEXTS]


def test_every_device_has_a_copy(eight):
    for array in jax.tree.leaves(eight.policy.params):
        assert array.is_fully_replicated
        assert array.devices() == set(jax.devices())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_devices_change_no_sampled_token(eight, one, prompts, temperature):
    settings = SamplingSettings(max_new_tokens=20, temperature=temperature)
    made = [
        sample_from(replicas, prompts, settings, samples=2, seed=5)(prompts, 0)
        for replicas in (eight, one)
    ]
    for on_eight, on_one in zip(*made, strict=True):
        for a, b in zip(on_eight, on_one, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_randomness_goes_by_the_number_of_a_prompt(eight, prompts):
    sample = sample_from(eight, prompts, SamplingSettings(max_new_tokens=8), seed=0)
    (last,) = sample(TEXTS[2:], 2)[0]
    np.testing.assert_array_equal(last.tokens, sample(TEXTS, 0)[2][0].tokens)


def test_completions_end_where_the_checkpoint_says(eight, prompts):
    settings = SamplingSettings(max_new_tokens=20)
    (completion,) = sample_from(eight, prompts, settings, seed=0)(TEXTS[:1], 0)[0]
    fourth = int(completion.tokens[3])
    policy = eight.policy
    stopping = policy._replace(origin=policy.origin._replace(stop_ids=(fourth,)))
    replicas = eight._replace(policy=stopping)
    (ended,) = sample_from(replicas, prompts, settings, seed=0)(TEXTS[:1], 0)[0]
    assert ended.tokens.tolist() == completion.tokens[: len(ended.tokens)].tolist()
    assert ended.tokens[-1] == fourth
    assert ended.is_finished


def test_the_devices_change_no_score_beyond_rounding(eight, one, prompts):
    examples = [Example(np.array(p, np.int32), np.arange(len(p)) >= 1) for p in prompts]
    responses = Responses.of([[example] for example in examples])
    scores = []
    for policy, mesh in (eight, one):
        feed = Feed(mesh, tokens=64, packed=False)
        scores.append(inference.policy_score(policy.graph, {}, feed)(policy.params, responses))
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert (scores[0][responses.is_response] < 0).all()
    assert (scores[0][~responses.is_response] == 0).all()
