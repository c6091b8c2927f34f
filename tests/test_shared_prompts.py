"""Responses that share a prompt's tokens say and learn what they would alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.batch import Batch, Example, Responses, pack
from rlft_jax.config.schema import resolved
from rlft_jax.logprobs import response_logprobs
from rlft_jax.models import attention_blockwise, attention_triangle
from rlft_jax.objectives import dpo, rloo, sft
from rlft_jax.packing import Packing, first_fit
from rlft_jax.runs.inference import policy_score
from rlft_jax.runs.plan import make_plan
from rlft_jax.texts import pack as pack_texts
from rlft_jax.training.feeding import Feed
from rlft_jax.training.sharding import make_mesh
from rlft_jax.training.step import init_state
from tests import tiny
from tests.models import reward_models

POLICY = tiny.policy()


def responses(*, longest_prompt: int = 9, group: int = 4, prompts: int = 6) -> Responses:
    """Groups of random responses to one prompt each; the last group's is a token long."""
    made = tiny.responses(prompts=prompts, group=group, longest=longest_prompt + 8)
    rng = np.random.default_rng(1)
    starts = rng.integers(2, longest_prompt + 1, prompts)
    starts[-1] = 1
    lengths = starts[:, None] + rng.integers(1, 9, (prompts, group))
    lengths[0, 0] = 0  # a response that is not there
    t = np.arange(made.tokens.shape[-1])
    is_prompt = t < starts[:, None, None]
    tokens = np.where(is_prompt, made.tokens[:, :1], made.tokens)
    is_there = t < lengths[..., None]
    is_response = ~is_prompt & is_there
    fields = {
        name: np.where(is_response, np.random.default_rng(n).standard_normal(t.shape), 0)
        for n, name in enumerate(
            ("advantages", "sampled_logprobs", "old_logprobs", "reference_logprobs")
        )
    }
    return Responses(
        np.where(is_there, tokens, 0).astype(np.int32),
        is_response,
        lengths.astype(np.int32),
        rewards=made.rewards,
        **{name: x.astype(np.float32) for name, x in fields.items()},
    )


RESPONSES = responses()


def packing_of(given: Responses, *, tokens: int, shares: bool, micro_batches: int = 1) -> Packing:
    shared = given.shared if shares else None
    return first_fit(given.lengths, tokens=tokens, shared=shared, micro_batches=micro_batches)


def batch_of(given: Responses, **how) -> Batch:
    return jax.tree.map(jnp.asarray, pack(given, packing_of(given, **how)))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Prompts and responses lie in several blocks of attention."""
    monkeypatch.setattr(attention_triangle, "BLOCK", 8)
    monkeypatch.setitem(attention_blockwise.BLOCKS, "cpu", 8)


def test_all_but_the_last_of_what_responses_begin_with_is_shared():
    example = lambda *ids, prompt: Example(np.array(ids, np.int32), np.arange(len(ids)) >= prompt)
    given = Responses.of(
        [
            [example(1, 2, 3, 4, 5, prompt=3), example(1, 2, 3, 4, prompt=3)],
            [example(1, 2, 3, 4, prompt=3), example(1, 9, 3, 4, prompt=3)],
            [example(7, 8, prompt=1), example(7, 8, prompt=1)],
            [example(1, 2, 3, prompt=2), example(5, 6, 7, prompt=2)],
        ]
    )
    # A prompt of three; one token in common; nothing before the last token; nothing at all.
    assert given.shared.tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize("tokens", [17, 24, 40, 200])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_every_response_finds_its_prompt_in_its_row(tokens, micro_batches):
    packing = packing_of(RESPONSES, tokens=tokens, shares=True, micro_batches=micro_batches)
    batch = pack(RESPONSES, packing)
    M, R, T = packing.shape
    assert packing.skipped.any()
    used = np.zeros((M, R, T), int)
    for b, g in np.argwhere(RESPONSES.lengths > 0):
        row = (packing.micro_batch[b, g], packing.row[b, g])
        skipped, length = packing.skipped[b, g], RESPONSES.lengths[b, g]
        start, begin = packing.start[b, g], packing.prompt_start[b, g]
        assert skipped in (0, RESPONSES.shared[b])
        expected = RESPONSES.tokens[b, g, :length]
        own = slice(start, start + length - skipped)
        used[row][own] += 1
        np.testing.assert_array_equal(batch.tokens[row][own], expected[skipped:])
        np.testing.assert_array_equal(
            batch.tokens[row][begin : begin + skipped], expected[:skipped]
        )
        np.testing.assert_array_equal(batch.positions[row][own], np.arange(skipped, length))
        assert (batch.prompt_starts[row][own] == begin).all()
        assert batch.is_response[row][own].sum() == RESPONSES.is_response[b, g].sum()
    np.testing.assert_array_equal(used, batch.segments > 0)


def test_a_group_that_fits_into_no_row_takes_no_more_rows_than_it_would_alone():
    lengths = np.array([[800, 800, 800, 200, 200, 200]])
    rows = lambda shared: first_fit(lengths, tokens=1024, shared=shared).row.max() + 1
    assert rows(np.array([19])) == rows(None) == 3


def test_prompts_take_less_room():
    alone = packing_of(RESPONSES, tokens=200, shares=False)
    shared = packing_of(RESPONSES, tokens=200, shares=True)
    laid = lambda packing: (packing.lengths - packing.skipped).sum()
    repeated = ((RESPONSES.lengths > 0).sum(1) - 1) * RESPONSES.shared
    assert laid(alone) - laid(shared) == repeated.sum()


@pytest.mark.parametrize("attention", ["xla", "blockwise"])
@pytest.mark.parametrize("tokens", [17, 40, 200])
def test_log_probabilities_are_those_of_responses_alone(tokens, attention):
    policy = tiny.with_compute(POLICY, attention=attention)
    score = jax.jit(response_logprobs)

    def scored(**how) -> np.ndarray:
        packing = packing_of(RESPONSES, **how)
        batch = jax.tree.map(jnp.asarray, pack(RESPONSES, packing))
        rows = score(policy.model, tiny.first_micro_batch(batch))
        return packing.lift(np.asarray(rows)[None], RESPONSES.tokens.shape[-1])

    ours = scored(tokens=tokens, shares=True)
    assert ((ours != 0) == RESPONSES.is_response).all()
    np.testing.assert_allclose(ours, scored(tokens=tokens, shares=False), atol=2e-6)


@pytest.mark.parametrize("attention", ["xla", "blockwise"])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradients_are_those_of_responses_alone(attention, remat):
    policy = tiny.with_compute(POLICY, attention=attention, remat=remat)
    made = [
        tiny.gradient(
            policy, rloo.objective, batch_of(RESPONSES, tokens=48, shares=shares, micro_batches=2)
        )
        for shares in (True, False)
    ]
    (ours, our_metrics), (theirs, their_metrics) = made
    assert tiny.distance(ours, theirs) < 2e-6
    np.testing.assert_allclose(our_metrics["loss"].total, their_metrics["loss"].total, rtol=1e-5)


def test_pairs_share_their_prompt_too():
    pairs = responses(group=2)
    pairs.lengths[0, 0] = pairs.lengths[0, 1]
    made = [
        tiny.gradient(POLICY, dpo.objective, batch_of(pairs, tokens=32, shares=shares))[0]
        for shares in (True, False)
    ]
    assert tiny.distance(*made) < 2e-6


def test_tokens_count_as_if_nothing_was_shared():
    count = lambda shares: compiled_step_of(batch_of(RESPONSES, tokens=48, shares=shares))
    assert count(True) == count(False) == RESPONSES.lengths.sum()


def compiled_step_of(batch: Batch) -> int:
    state = init_state(POLICY.params, tiny.KEEP_GRADIENT)
    how = dict(graph=POLICY.graph, objective=sft.objective, optimizer=tiny.KEEP_GRADIENT, seed=0)
    return int(tiny.compiled_step(state, POLICY.frozen, batch, **how)[0].tokens.value)


def test_eight_devices_score_what_one_does():
    feed = Feed(make_mesh(data=4, fsdp=2), tokens=48, shares_prompts=True)
    assert feed(RESPONSES).prompt_starts is not None
    ours = policy_score(POLICY.graph, {}, feed)(POLICY.params, RESPONSES)
    packing = packing_of(RESPONSES, tokens=48, shares=False)
    batch = jax.tree.map(jnp.asarray, pack(RESPONSES, packing))
    rows = jax.jit(response_logprobs)(POLICY.model, tiny.first_micro_batch(batch))
    theirs = packing.lift(np.asarray(rows)[None], RESPONSES.tokens.shape[-1])
    np.testing.assert_allclose(ours, theirs, atol=3e-6)


@pytest.mark.parametrize("attention", ["xla", "blockwise"])
def test_a_response_does_not_see_its_siblings(attention):
    policy = tiny.with_compute(POLICY, attention=attention)
    batch = tiny.first_micro_batch(batch_of(RESPONSES, tokens=200, shares=True))
    score = jax.jit(response_logprobs)
    before = np.asarray(score(policy.model, batch))
    segments = np.asarray(batch.segments)
    for segment in np.unique(segments[segments > 0]):
        is_changed = (segments == segment) & np.asarray(batch.is_response)
        tokens = jnp.where(is_changed, batch.tokens ^ 1, batch.tokens)
        after = np.asarray(score(policy.model, batch._replace(tokens=tokens)))
        np.testing.assert_array_equal(after[~is_changed], before[~is_changed])
        assert (after != before)[is_changed].any()


def test_only_packed_rows_of_groups_share():
    feed = Feed(make_mesh(), tokens=48, shares_prompts=True)
    assert feed(RESPONSES).prompt_starts is not None
    assert feed._replace(packed=False)(RESPONSES).prompt_starts is None
    assert feed._replace(shares_prompts=False)(RESPONSES).prompt_starts is None
    one = tiny.responses(group=1)
    assert feed(one).prompt_starts is None


def test_a_decoder_scores_texts_that_share_what_they_begin_with_as_alone():
    made = reward_models.texts(reward_models.QWEN2, ((9, 14), (12, 12), (3, 20)))
    is_start = np.arange(made.tokens.shape[-1]) < np.array([7, 12, 2])[:, None, None]
    tokens = np.where(is_start, made.tokens[:, :1], made.tokens)  # the second pair is one text
    made = made._replace(tokens=tokens)
    assert made.shared.tolist() == [6, 11, 1]
    params = reward_models.random_params(reward_models.QWEN2)

    def scores(**how) -> np.ndarray:
        packing = first_fit(made.lengths, tokens=40, **how)
        assert packing.skipped.any() == bool(how)
        batch = jax.tree.map(lambda x: jnp.asarray(x[0]), pack_texts(made, packing))
        return reward_models.scores(reward_models.QWEN2, params, batch)

    np.testing.assert_allclose(scores(shared=made.shared), scores(), atol=2e-6)


CASES = {
    "a rollout": (dict(), True),
    "a rollout, rows of their own": (dict(batch__packed=False), False),
    "a rollout, wished otherwise": (dict(batch__share_prompts=False), False),
}


@pytest.mark.parametrize(("changes", "shares"), CASES.values(), ids=CASES)
def test_a_run_shares_prompts_where_it_can(tiny_parts, changes, shares):
    assert make_plan(resolved(tiny_parts.rloo(**changes))).feed.shares_prompts == shares


def test_imitation_has_nothing_to_share(tiny_parts):
    assert not make_plan(resolved(tiny_parts.sft())).feed.shares_prompts
    with pytest.raises(ValueError, match=r"batch\.share_prompts .*no two responses to a prompt"):
        resolved(tiny_parts.sft(batch__share_prompts=True))


def test_attention_that_cannot_share_is_named(tiny_parts):
    config = resolved(tiny_parts.rloo(batch__share_prompts=True, model__attention="splash"))
    with pytest.raises(ValueError, match=r"share_prompts = True needs .*'splash' cannot"):
        make_plan(config)
