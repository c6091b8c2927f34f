"""Greedy decoding and the filters on logits do what transformers does."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rlft_jax.models import convert
from rlft_jax.sampling.filters import keep_min_p, keep_top_k, keep_top_p, penalise_repetition
from rlft_jax.sampling.sampler import Sampler
from rlft_jax.sampling.settings import SamplingSettings
from tests.models.qwen2_models import SHAPES, from_folder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [3, 30, 4], [20, 20, 21]]
NEW = 20


def save_random(folder: Path, name: str):
    """Saves a model of transformers that has strong opinions, and returns it."""
    a = SHAPES[name]
    config = transformers.Qwen2Config(
        vocab_size=a.vocabulary,
        hidden_size=a.width,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        intermediate_size=a.feed_forward,
        head_dim=a.head_width,
        rope_parameters={"rope_type": "default", "rope_theta": a.rope_theta},
        rms_norm_eps=a.norm_epsilon,
        tie_word_embeddings=a.tied,
        max_position_embeddings=a.max_positions,
    )
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return model


def generated(model, prompts: list[list[int]], **kwargs) -> list[list[int]]:
    """What transformers adds greedily to prompts that are padded on the left."""
    width = max(map(len, prompts))
    pad = [width - len(prompt) for prompt in prompts]
    output = model.generate(
        input_ids=torch.tensor([[0] * n + prompt for n, prompt in zip(pad, prompts)]),
        attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in pad]),
        do_sample=False,
        max_new_tokens=NEW,
        pad_token_id=0,
        **kwargs,
    )
    return output[:, width:].tolist()


def ours(folder: Path, **settings) -> list[list[int]]:
    """What we add greedily."""
    graph, _ = nnx.split(from_folder(folder))
    settings = SamplingSettings(max_new_tokens=NEW, temperature=0.0, chunk=8, **settings)
    completions = Sampler(graph, settings)(convert.load(folder), PROMPTS)
    return [completion.tokens.tolist() for [completion] in completions]


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens_equal_those_of_generate(name, tmp_path):
    model = save_random(tmp_path, name)
    theirs = generated(model, PROMPTS, eos_token_id=None)
    assert len({tuple(tokens) for tokens in theirs}) == len(PROMPTS)
    assert ours(tmp_path) == theirs


def test_several_stop_tokens_end_where_generate_ends(tmp_path):
    model = save_random(tmp_path, "tied, 2 KV heads")
    free = generated(model, PROMPTS, eos_token_id=None)
    stops = [free[0][4], free[2][9]]
    theirs = generated(model, PROMPTS, eos_token_id=stops)
    until = lambda tokens: next(
        (tokens[: i + 1] for i, token in enumerate(tokens) if token in stops), tokens
    )
    stopped = ours(tmp_path, stop_ids=tuple(stops))
    assert stopped == [until(tokens) for tokens in theirs]
    assert min(map(len, stopped)) < NEW


def test_repetition_penalty_acts_as_in_generate(tmp_path):
    model = save_random(tmp_path, "untied, 2 KV heads")
    # One by one: transformers would take padding for a token that was said.
    theirs = [
        generated(model, [prompt], eos_token_id=None, repetition_penalty=1.4)[0]
        for prompt in PROMPTS
    ]
    assert theirs != generated(model, PROMPTS, eos_token_id=None)
    assert ours(tmp_path, repetition_penalty=1.4) == theirs


def random_logits(*, with_ties: bool) -> np.ndarray:
    logits = np.random.default_rng(0).normal(0, 3, (64, 50)).astype(np.float32)
    return np.round(logits) if with_ties else logits


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize("k", [1, 7, 200])
def test_top_k_keeps_what_transformers_keeps(k, with_ties):
    logits = random_logits(with_ties=with_ties)
    theirs = transformers.TopKLogitsWarper(top_k=k)(None, torch.tensor(logits))
    np.testing.assert_array_equal(keep_top_k(jnp.asarray(logits), k), theirs.numpy())


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_top_p_keeps_what_transformers_keeps(p):
    logits = random_logits(with_ties=False)
    theirs = transformers.TopPLogitsWarper(top_p=p)(None, torch.tensor(logits))
    np.testing.assert_array_equal(keep_top_p(jnp.asarray(logits), p), theirs.numpy())


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_top_p_keeps_as_many_ties_as_transformers(p):
    logits = random_logits(with_ties=True)
    theirs = transformers.TopPLogitsWarper(top_p=p)(None, torch.tensor(logits)).numpy()
    mine = np.asarray(keep_top_p(jnp.asarray(logits), p))
    # Which of them is up to torch's sort, which is not stable.
    np.testing.assert_array_equal(np.sort(mine), np.sort(theirs))


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize("p", [0.01, 0.3, 1.0])
def test_min_p_keeps_what_transformers_keeps(p, with_ties):
    logits = random_logits(with_ties=with_ties)
    theirs = transformers.MinPLogitsWarper(min_p=p)(None, torch.tensor(logits))
    np.testing.assert_array_equal(keep_min_p(jnp.asarray(logits), p), theirs.numpy())


def test_filters_apply_in_the_order_of_transformers():
    logits = random_logits(with_ties=False)
    settings = SamplingSettings(max_new_tokens=1, top_k=9, top_p=0.7, min_p=0.2)
    mine = jnp.asarray(logits) / 1.7
    for keep in settings.filters:
        mine = keep(mine)
    config = transformers.GenerationConfig(
        do_sample=True, temperature=1.7, top_k=9, top_p=0.7, min_p=0.2
    )
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=50,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            intermediate_size=8,
        )
    )
    chain = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    theirs = chain(torch.zeros((64, 1), dtype=torch.long), torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(theirs))
    assert 1 < np.isfinite(theirs).sum(-1).mean() < 9


def test_repetition_penalty_equals_that_of_transformers():
    logits = random_logits(with_ties=False)
    tokens = np.random.default_rng(1).integers(0, 50, (64, 12))
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, tokens, True, axis=-1)
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty=1.3)
    theirs = processor(torch.tensor(tokens), torch.tensor(logits)).numpy()
    mine = penalise_repetition(jnp.asarray(logits), jnp.asarray(seen), 1.3)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)
