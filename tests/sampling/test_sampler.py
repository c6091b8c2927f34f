"""Sampling says what the model says, whatever shares the batch."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rlft_jax.batch import Batch
from rlft_jax.logprobs import token_scores
from rlft_jax.sampling import table
from rlft_jax.sampling.sampler import Sampler
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.sampling.transcripts import Completion
from tests.sampling.tiny import TINY, make

FREE = SamplingSettings(max_new_tokens=12, chunk=4)
PROMPTS = [[3, 5, 7], [1], [9, 2, 4, 4, 8, 11, 6], [12, 13]]


@pytest.fixture(scope="module")
def tiny():
    return make()


WIDTH = 48  # what follows a sequence does not reach it, so all lengths share one program


@functools.partial(jax.jit, static_argnums=(0, 3))
def scored(graph: nnx.GraphDef, params: dict, tokens: jax.Array, temperature: float):
    """Logits of the full forward, and the trainer's log-probabilities."""
    model, ones = nnx.merge(graph, params), jnp.ones((1, WIDTH), jnp.int32)
    batch = Batch(tokens, ones, jnp.arange(WIDTH)[None], ones > 0, jnp.ones((1, 1), bool))
    logprobs = token_scores(model, batch, temperature=temperature).logprobs
    return model.unembed(model.hidden(tokens))[0], logprobs[0]


def padded(tokens: list[int]) -> np.ndarray:
    return np.array([[*tokens, *[0] * (WIDTH - len(tokens))]], np.int32)


def next_logits(graph: nnx.GraphDef, params: dict, tokens: list[int]) -> np.ndarray:
    """What the full forward says of the next token."""
    return np.asarray(scored(graph, params, padded(tokens), 1.0)[0][len(tokens) - 1])


def rescored(
    graph: nnx.GraphDef, params: dict, prompt: list[int], completion: Completion, temperature=1.0
) -> np.ndarray:
    """The trainer's score of a completion."""
    tokens = [*prompt, *completion.tokens.tolist()]
    logprobs = scored(graph, params, padded(tokens), temperature)[1]
    return np.asarray(logprobs[len(prompt) : len(tokens)])


@functools.lru_cache
def shared_sampler(graph: nnx.GraphDef, settings: SamplingSettings) -> Sampler:
    """Tests share what was compiled."""
    return Sampler(graph, settings)


def tokens_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[c.tokens.tolist() for c in group] for group in completions]


def test_cached_decoding_scores_tokens_as_the_full_forward_does(tiny):
    sampler = Sampler(tiny[0], SamplingSettings(max_new_tokens=9, temperature=0.7, chunk=4))
    for prompt, group in zip(PROMPTS, sampler(tiny[1], PROMPTS, samples=2), strict=True):
        for completion in group:
            assert len(completion.tokens) == 9
            expected = rescored(*tiny, prompt, completion, temperature=0.7)
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


def test_a_growing_cache_keeps_what_it_holds(tiny, monkeypatch):
    monkeypatch.setattr(table, "FIRST_COLUMNS", 4)
    sampler = Sampler(tiny[0], SamplingSettings(max_new_tokens=30, chunk=4))
    [[completion]] = sampler(tiny[1], PROMPTS[:1])  # in 16, 32, then 48 columns
    np.testing.assert_allclose(
        completion.logprobs, rescored(*tiny, PROMPTS[0], completion), atol=1e-5
    )


@pytest.mark.parametrize(("cache_dtype", "atol"), [(None, 1e-5), ("int8", 0.02)])
def test_adapters_take_part(cache_dtype, atol):
    graph, params = make(adapted=True)
    settings = SamplingSettings(max_new_tokens=5, cache_dtype=cache_dtype)
    [[completion]] = Sampler(graph, settings)(params, PROMPTS[:1])
    np.testing.assert_allclose(
        completion.logprobs, rescored(graph, params, PROMPTS[0], completion), atol=atol
    )
    off = jax.tree.map(jnp.copy, params)
    off["layers"]["attention"]["q"]["lora"]["b"] *= 0
    assert (
        np.abs(completion.logprobs - rescored(graph, off, PROMPTS[0], completion)).max() > 2 * atol
    )


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_greedy_takes_the_likeliest_token_of_the_full_forward(tiny, penalty):
    settings = SamplingSettings(max_new_tokens=8, temperature=0.0, repetition_penalty=penalty)
    completions = shared_sampler(tiny[0], settings)(tiny[1], PROMPTS)
    for prompt, [completion] in zip(PROMPTS, completions, strict=True):
        tokens = list(prompt)
        for _ in range(8):
            logits = next_logits(*tiny, tokens)
            seen = np.isin(np.arange(TINY.vocabulary), tokens)
            penalised = np.where(logits < 0, logits * penalty, logits / penalty)
            tokens.append(int(np.where(seen, penalised, logits).argmax()))
        assert completion.tokens.tolist() == tokens[len(prompt) :]
        expected = rescored(*tiny, prompt, completion)  # of the model itself, penalty or not
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


def test_a_request_does_not_feel_its_neighbours(tiny):
    sample = lambda settings, prompts, **kwargs: tokens_of(
        shared_sampler(tiny[0], settings)(tiny[1], prompts, seed=4, **kwargs)
    )
    together = sample(FREE, PROMPTS, samples=3)
    assert len({tuple(tokens) for group in together for tokens in group}) == 12
    assert sample(FREE, [PROMPTS[2]], samples=3, requests=[2]) == [together[2]]
    assert sample(FREE, PROMPTS[::-1], samples=3, requests=[3, 2, 1, 0]) == together[::-1]
    assert sample(FREE, PROMPTS) == [group[:1] for group in together]
    few_rows = dataclasses.replace(FREE, batch_rows=6, chunk=6)
    assert sample(few_rows, PROMPTS, samples=3) == together


STOPPING = SamplingSettings(max_new_tokens=40, chunk=4, stop_ids=(5, 17))
MANY = [[i % 24, *[i % 7] * (i % 5)] for i in range(14)]


@pytest.fixture(scope="module")
def whole(tiny) -> tuple[Sampler, list[list[Completion]]]:
    """All samples at once, in rows enough."""
    sampler = Sampler(tiny[0], STOPPING)
    return sampler, sampler(tiny[1], MANY, samples=3, seed=7)


@pytest.mark.parametrize("rows", [2, 8])
def test_refilled_rows_change_no_sample(tiny, whole, rows):
    """Prompts of any length, samples that end early and late; a prompt's samples enter apart."""
    refilled = Sampler(tiny[0], dataclasses.replace(STOPPING, batch_rows=rows))
    found = refilled(tiny[1], MANY, samples=3, seed=7)
    assert tokens_of(found) == tokens_of(whole[1])
    lengths = np.array([len(c.tokens) for group in found for c in group])
    assert len(set(lengths.tolist())) > 8
    for one, other in zip(itertools.chain(*found), itertools.chain(*whole[1]), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
        assert one.is_finished == other.is_finished
    # A long completion held up nobody: rows were busy until none waited.
    chunks = -(-lengths // 4)
    assert lengths.max() == 40
    assert refilled.decode_steps / 4 <= chunks.sum() / rows + chunks.max()
    in_turns = sum(chunks[start : start + rows].max() for start in range(0, len(chunks), rows))
    assert refilled.decode_steps / 4 < 0.8 * in_turns


def test_a_table_shrinks_with_what_it_holds(whole):
    sampler, completions = whole
    assert sampler.decode_steps == 40
    assert sampler.decoded_tokens < 0.6 * 40 * 42
    assert sampler.decoded_tokens >= sum(len(c.tokens) for group in completions for c in group)


def test_a_prompt_is_read_once_for_all_of_its_samples(tiny):
    sampler = Sampler(tiny[0], dataclasses.replace(STOPPING, batch_rows=5))
    read, prefill = [], sampler._programs.prefill

    def noted(params, tokens, lengths):
        read.extend(row[:n].tolist() for row, n in zip(tokens, lengths) if n)
        return prefill(params, tokens, lengths)

    sampler._programs = sampler._programs._replace(prefill=noted)
    sampler(tiny[1], MANY, samples=3)
    assert sorted(read) == sorted(MANY)


def test_seed_and_request_both_change_what_is_sampled(tiny):
    sampler = shared_sampler(tiny[0], FREE)
    sample = functools.partial(sampler, tiny[1], PROMPTS[:1])
    assert tokens_of(sample(seed=1)) == tokens_of(sample(seed=1))
    assert tokens_of(sample(seed=1)) != tokens_of(sample(seed=2))
    assert tokens_of(sample(seed=1, requests=[7])) != tokens_of(sample(seed=1))


def test_sampled_frequencies_are_the_models_probabilities(tiny):
    settings = SamplingSettings(max_new_tokens=1, temperature=1.5, batch_rows=20_000)
    [group] = Sampler(tiny[0], settings)(tiny[1], PROMPTS[:1], samples=20_000)
    counts = np.bincount([c.tokens[0] for c in group], minlength=TINY.vocabulary)
    expected = 20_000 * np.asarray(jax.nn.softmax(next_logits(*tiny, PROMPTS[0]) / 1.5))
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 49.7  # 99.9 % quantile of 23 degrees of freedom


def test_top_p_samples_the_nucleus_and_nothing_else(tiny):
    settings = SamplingSettings(max_new_tokens=1, top_p=0.6, batch_rows=2000)
    [group] = Sampler(tiny[0], settings)(tiny[1], PROMPTS[:1], samples=2000)
    probabilities = np.asarray(jax.nn.softmax(next_logits(*tiny, PROMPTS[0])))
    likely = np.argsort(-probabilities)
    size = 1 + (np.cumsum(probabilities[likely]) < 0.6).sum()
    assert 1 < size < TINY.vocabulary
    assert {int(c.tokens[0]) for c in group} == set(likely[:size].tolist())
    for completion in group[:5]:  # scored before the filter
        expected = np.log(probabilities[completion.tokens[0]])
        np.testing.assert_allclose(completion.logprobs, [expected], atol=1e-5)


def test_top_1_is_greedy(tiny):
    greedy = shared_sampler(tiny[0], SamplingSettings(max_new_tokens=8, temperature=0.0))
    top_1 = Sampler(tiny[0], SamplingSettings(max_new_tokens=8, top_k=1))
    assert tokens_of(top_1(tiny[1], PROMPTS)) == tokens_of(greedy(tiny[1], PROMPTS))


def test_a_filter_of_the_users_applies(tiny):
    is_seven = jnp.arange(TINY.vocabulary)[None] == 7
    only_seven = lambda logits: jnp.where(is_seven, logits, -jnp.inf)
    sampler = Sampler(tiny[0], SamplingSettings(max_new_tokens=3), filters=[only_seven])
    assert tokens_of(sampler(tiny[1], PROMPTS[:2])) == [[[7, 7, 7]]] * 2


def test_a_stop_token_ends_its_completion_and_belongs_to_it(tiny):
    free = shared_sampler(tiny[0], FREE)(tiny[1], PROMPTS, samples=3)
    stops = (5, 17)
    stopping = dataclasses.replace(FREE, stop_ids=stops)
    ends = []
    for group, stopped in zip(free, Sampler(tiny[0], stopping)(tiny[1], PROMPTS, samples=3)):
        for long, short in zip(group, stopped, strict=True):
            assert not long.is_finished
            hits = np.flatnonzero(np.isin(long.tokens, stops))
            end = hits[0] + 1 if hits.size else 12
            assert short.tokens.tolist() == long.tokens[:end].tolist()
            assert short.logprobs.tolist() == long.logprobs[:end].tolist()
            assert short.is_finished == bool(hits.size)
            ends.append(short.is_finished)
    assert 0 < sum(ends) < len(ends)


def test_decoding_stops_when_all_rows_have(tiny):
    everything = tuple(range(TINY.vocabulary))
    sampler = Sampler(tiny[0], SamplingSettings(max_new_tokens=64, stop_ids=everything, chunk=4))
    completions = sampler(tiny[1], PROMPTS[:3])
    assert [len(c.tokens) for [c] in completions] == [1, 1, 1]
    assert sampler.decode_steps == 4


def test_a_stop_string_ends_a_completion_at_the_token_that_completes_it(tiny):
    letters = "abcdefghijklmnopqrstuvwx"
    decode = lambda tokens: "".join(letters[token] for token in tokens)
    free = shared_sampler(tiny[0], FREE)(tiny[1], PROMPTS, samples=3)
    text = decode(free[0][0].tokens)
    stop = text[3:5]  # half in the first chunk, half in the second
    stopping = dataclasses.replace(FREE, stop_strings=(stop, "no such text"))
    stopped = Sampler(tiny[0], stopping, decode=decode)(tiny[1], PROMPTS, samples=3)
    first = stopped[0][0]
    assert first.is_finished
    assert decode(first.tokens) == text[: text.index(stop) + 2]
    assert len(first.logprobs) == len(first.tokens)
    for long, short in zip(itertools.chain(*free), itertools.chain(*stopped)):
        assert short.is_finished == (stop in decode(long.tokens))
        assert decode(long.tokens).startswith(decode(short.tokens))


def test_no_tokens_beyond_the_most_when_chunks_do_not_fit(tiny):
    sampler = Sampler(tiny[0], SamplingSettings(max_new_tokens=7, chunk=4))
    [[completion]] = sampler(tiny[1], PROMPTS[:1])
    assert (len(completion.tokens), sampler.decode_steps) == (7, 8)
    assert not completion.is_finished


def test_a_mesh_changes_nothing(tiny):
    graph, params = tiny
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    is_matrix = lambda x: x.ndim >= 2 and x.shape[-1] % 2 == x.shape[-2] % 2 == 0

    def spread(x):
        axes = (None,) * (x.ndim - 2) + ("fsdp", "tensor") if is_matrix(x) else ()
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    settings = SamplingSettings(max_new_tokens=9, chunk=5, repetition_penalty=1.1)
    alone = Sampler(graph, settings)(params, PROMPTS, samples=3)
    sampler = Sampler(graph, settings, mesh=mesh)
    shared = sampler(jax.tree.map(spread, params), PROMPTS, samples=3)
    assert tokens_of(shared) == tokens_of(alone)
    for one, other in zip(itertools.chain(*shared), itertools.chain(*alone)):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_8_bits_depend_on_the_text_alone_and_are_close_to_the_trainer(tiny, monkeypatch):
    """Whatever the chunks, the rows, the columns and the devices."""
    settings = dataclasses.replace(FREE, cache_dtype="int8")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shared = Sampler(tiny[0], settings, mesh=mesh)(tiny[1], PROMPTS, samples=3)
    monkeypatch.setattr(table, "FIRST_COLUMNS", 16)
    other = dataclasses.replace(settings, chunk=6, batch_rows=5)
    alone = Sampler(tiny[0], other)(tiny[1], PROMPTS, samples=3)
    assert tokens_of(alone) == tokens_of(shared)
    off = []
    for prompt, *groups in zip(PROMPTS, alone, shared):
        for one, same in zip(*groups):
            np.testing.assert_allclose(one.logprobs, same.logprobs, atol=1e-5)
            off += (one.logprobs - rescored(*tiny, prompt, one)).tolist()
    assert 1e-4 < np.abs(off).max() < 0.1
    assert np.abs(off).mean() < 0.01


def test_settings_that_cannot_be_are_refused_together():
    with pytest.raises(ValueError, match="cannot be sampled") as refused:
        SamplingSettings(max_new_tokens=0, temperature=-1.0, top_p=0.0, min_p=2.0, top_k=-1)
    for name in (
        "max_new_tokens = 0",
        "temperature = -1.0",
        "top_p = 0.0",
        "min_p = 2.0",
        "top_k = -1",
    ):
        assert name in str(refused.value)


@pytest.mark.parametrize("setting", [{"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_filters_that_greedy_would_ignore_are_refused(setting):
    with pytest.raises(ValueError, match="do nothing at temperature = 0"):
        SamplingSettings(max_new_tokens=1, temperature=0.0, **setting)


def test_stop_strings_need_a_decoder(tiny):
    with pytest.raises(ValueError, match="need `decode`"):
        Sampler(tiny[0], SamplingSettings(max_new_tokens=1, stop_strings=("x",)))


def test_requests_that_cannot_be_are_refused_together(tiny):
    sampler = Sampler(tiny[0], SamplingSettings(max_new_tokens=200, batch_rows=4))
    with pytest.raises(ValueError, match="cannot be sampled") as refused:
        sampler(tiny[1], [[], [1] * 57, [24], [-1], [1] * 56], samples=0, requests=[-1])
    message = str(refused.value)
    for part in ("Prompt 0 is empty", "Prompt 1 of 57", "Prompt 2 has tokens from 24", "Prompt 3"):
        assert part in message
    assert "samples = 0" in message
    assert "1 requests do not number 5 prompts" in message
    assert "not from 0 to 2**32 - 1" in message
    assert "Prompt 4" not in message


def test_nothing_to_say_to_no_prompts(tiny):
    assert Sampler(tiny[0], SamplingSettings(max_new_tokens=1))(tiny[1], []) == []
