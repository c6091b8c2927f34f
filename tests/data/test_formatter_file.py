"""A reward model is not scored on other texts than it was trained on."""

import json

import pytest

from rlft_jax.data.formatter_file import (
    NAME,
    check_formatter,
    load_formatter,
    read_formatter,
    save_formatter,
)
from rlft_jax.data.formatting import Formatter
from rlft_jax.data.tokenizer import load_tokenizer
from tests.data.encoder_tokenizers import wordpiece


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return wordpiece(["yes", "no"], tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(bert, tmp_path):
    """A reward model's tokenizer and formatter."""
    bert.save(tmp_path)
    save_formatter(Formatter(bert, "plain", 48, "drop"), tmp_path)
    return tmp_path


def test_a_model_brings_its_formatter(folder, bert):
    loaded = load_formatter(folder, load_tokenizer(folder), positions=512)
    assert (loaded.preset, loaded.tokens, loaded.too_long) == ("plain", 48, "drop")
    assert loaded.fingerprint == Formatter(bert, "plain", 48, "drop").fingerprint
    assert json.loads((folder / NAME).read_text())["fingerprint"] == loaded.fingerprint
    check_formatter(folder, loaded)


def test_all_that_texts_depend_on_is_in_the_fingerprint(bert, letters, llama_like, tmp_path):
    larger = wordpiece(["yes", "no", "maybe"], tmp_path)
    formatters = [
        Formatter(bert, "plain", 48),
        Formatter(bert, "plain", 48, "drop"),
        Formatter(bert, "plain", 49),
        Formatter(bert, "pair", 48),
        Formatter(larger, "pair", 48),
        Formatter(letters, "plain", 96),
        Formatter(llama_like, "plain", 96),
    ]
    assert len({formatter.fingerprint for formatter in formatters}) == len(formatters)


def test_another_format_is_refused_with_all_that_differs(folder, bert):
    message = "preset was 'plain' in training, and is 'pair'.\n- tokens was 48 .* is 32"
    with pytest.raises(ValueError, match=message):
        load_formatter(folder, bert, positions=512, preset="pair", tokens=32)
    with pytest.raises(ValueError, match=r"(?s)too_long was 'drop' .* delete rlft_formatter\.json"):
        check_formatter(folder, Formatter(bert, "plain", 48, "cut"))
    assert load_formatter(folder, bert, positions=512, preset="plain").tokens == 48


def test_another_tokenizer_is_refused(folder, tmp_path_factory):
    other = wordpiece(["yes", "no", "maybe"], tmp_path_factory.mktemp("other"))
    with pytest.raises(ValueError, match=r"tokenizer was '[0-9a-f]{16}' in training, and is "):
        load_formatter(folder, other, positions=512)


def test_a_foreign_model_gets_the_usual_form_or_the_one_chosen(bert, tmp_path):
    usual = load_formatter(tmp_path, bert, positions=512)
    assert (usual.preset, usual.tokens, usual.too_long) == ("pair", 512, "cut")
    chosen = load_formatter(tmp_path, bert, positions=512, preset="plain", tokens=64)
    assert (chosen.preset, chosen.tokens) == ("plain", 64)
    check_formatter(tmp_path, chosen)
    assert read_formatter(tmp_path) is None
    with pytest.raises(ValueError, match="tokens = 513 is more than the 512"):
        load_formatter(tmp_path, bert, positions=512, tokens=513)


@pytest.mark.parametrize("content", ["", "[]", '{"preset": "pair"}'])
def test_a_damaged_file_is_refused(content, folder, bert):
    (folder / NAME).write_text(content)
    with pytest.raises(ValueError, match=r"rlft_formatter\.json (is no JSON|does not hold)"):
        load_formatter(folder, bert, positions=512)
