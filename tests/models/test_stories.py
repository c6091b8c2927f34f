"""A trained model: what it writes and what it gives every token are known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rlft_jax.models import convert
from tests.models import stories
from tests.models.qwen2_models import from_folder, params_of

GREEDY_TOKENS = 64


@pytest.fixture(scope="module")
def golden(shared_data):
    return json.loads((shared_data / "tiny_lm/stories260K/golden.json").read_text())


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("stories260K")
    return stories.convert(shared_data / "tiny_lm/stories260K", out)


@pytest.fixture(scope="module")
def model(folder):
    return from_folder(folder)


def test_the_trained_model_gives_the_golden_logits(model, golden):
    tokens = jnp.array([golden["teacher_forced_input_ids"]])
    logits = np.asarray(model.unembed(model.hidden(tokens))[0], np.float64)
    for position, expected in golden["logits_float64"].items():
        np.testing.assert_allclose(logits[int(position)], expected, rtol=1e-4, atol=2e-4)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(logp[:-1], np.asarray(tokens)[0, 1:, None], axis=1).mean()
    assert nll == pytest.approx(golden["mean_nll_of_input_ids"], abs=1e-6)


def test_the_trained_model_writes_the_golden_text(model, golden):
    wanted = golden["greedy_ids_from_bos"]
    graph, params = nnx.split(model)
    tokens = jnp.zeros((1, len(wanted)), jnp.int32).at[0, 0].set(wanted[0])

    @jax.jit
    def written(params, tokens):
        def write(t, tokens):
            model = nnx.merge(graph, params)
            logits = model.unembed(model.hidden(tokens)[:, t])
            return tokens.at[0, t + 1].set(logits[0].argmax().astype(jnp.int32))

        return jax.lax.fori_loop(0, GREEDY_TOKENS, write, tokens)

    ids = written(params, tokens)[0, : GREEDY_TOKENS + 1].tolist()
    assert ids == wanted[: GREEDY_TOKENS + 1]


def test_all_golden_tokens_are_the_likeliest(model, golden):
    tokens = jnp.array([golden["greedy_ids_from_bos"]])
    likeliest = model.unembed(model.hidden(tokens))[0].argmax(-1)
    assert likeliest[:-1].tolist() == tokens[0, 1:].tolist()


def test_the_tokenizer_reads_and_writes_the_golden_text(folder, golden):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # llama2.c puts a space in front of a text and takes it away again.
    ids, text = golden["greedy_ids_from_bos"], " " + golden["greedy_text"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.encode(text) == ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)


@pytest.mark.parametrize("text", ["3 + 4 = 7\n", " “Café” – 5€…", "\t~ ☃ \x00 ñ", "<0x61>", ""])
def test_the_tokenizer_loses_nothing(folder, text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_whole_characters_are_single_tokens(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [len(tokenizer.encode(c, add_special_tokens=False)) for c in "“”’–—‘éñ…€™"] == [1] * 11


def test_the_trained_model_comes_back_bit_for_bit(folder, model, tmp_path):
    params = params_of(model)
    convert.save(tmp_path, params, model.architecture, dtype="float32", source=folder)
    again = convert.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.oracle
def test_transformers_writes_the_golden_text_from_our_export(folder, model, golden, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    convert.save(tmp_path, params_of(model), model.architecture, dtype="float32", source=folder)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    wanted = golden["greedy_ids_from_bos"][: GREEDY_TOKENS + 1]
    start = torch.tensor([wanted[:1]])
    written = theirs.generate(start, max_new_tokens=GREEDY_TOKENS, do_sample=False, pad_token_id=0)
    assert written[0].tolist() == wanted
