"""What a reward model reads has its special tokens, whole responses, and one form only."""

import json

import numpy as np
import pytest

from rlft_jax.data.formatting import Formatter, default_preset
from tests.data.conftest import small_tokenizer
from tests.data.encoder_tokenizers import unigram, wordpiece

WORDS = [
    "what",
    "is",
    "two",
    "plus",
    "four",
    "the",
    "name",
    "of",
    "king",
    "yes",
    "no",
    "it",
    "system",
    "user",
    "assistant",
]
QUESTION, ANSWER = "what is two plus two?", "it is four."


def chat(*turns: str) -> list[dict]:
    """Turns of the user and the assistant by turns."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return wordpiece(WORDS, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def deberta(tmp_path_factory):
    return unigram([f"{QUESTION} {ANSWER}"] * 50, tmp_path_factory.mktemp("deberta"))


def read(formatter: Formatter, prompt, response) -> str:
    """The text of a prompt and a response, as the tokenizer spells it."""
    return formatter.tokenizer.decode(formatter.texts([(prompt, response)])[0].tokens)


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_a_pair_is_two_segments_between_special_tokens(kind, request):
    tokenizer = request.getfixturevalue(kind)
    text = Formatter(tokenizer, "pair", 64).texts([(QUESTION, ANSWER)])[0]
    expected = tokenizer.hf(QUESTION, ANSWER)
    assert text.tokens.tolist() == expected["input_ids"]
    assert text.types.tolist() == expected["token_type_ids"]
    cls, sep = tokenizer.id_of("[CLS]"), tokenizer.id_of("[SEP]")
    assert text.tokens[0] == cls
    first, last = np.flatnonzero(text.tokens == sep)
    assert last == len(text.tokens) - 1
    assert (text.types == (np.arange(last + 1) > first)).all()


def test_real_bert_texts_get_the_ids_they_should(shared_data, tmp_path):
    folder = shared_data / "tokenizers/bert-base-uncased"
    tokenizer = wordpiece([], tmp_path)
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    tokenizer = type(tokenizer)(type(tokenizer.hf).from_pretrained(tmp_path))
    lines = (folder / "golden_encode.jsonl").read_text(encoding="utf-8").splitlines()
    golden = [json.loads(line) for line in lines]
    assert len(golden) == 68
    encoded = tokenizer.encode_inputs([case["text"] for case in golden], add_special_tokens=True)
    assert [ids for ids, _ in encoded] == [case["ids"] for case in golden]
    text = Formatter(tokenizer, "pair", 512).texts([(golden[0]["text"], golden[1]["text"])])[0]
    assert text.tokens.tolist() == golden[0]["ids"] + golden[1]["ids"][1:]


def test_plain_is_the_papers_form(bert, deberta):
    form = f"system\nYou are a helpful assistant.\nuser\n{QUESTION}\nassistant\n{ANSWER}"
    for tokenizer in (bert, deberta):
        text = Formatter(tokenizer, "plain", 256).texts([(chat(QUESTION), ANSWER)])[0]
        assert text.tokens.tolist() == tokenizer.hf(form)["input_ids"]
        assert not text.types.any()


def test_plain_is_qwens_template_without_its_special_tokens(qwen, bert):
    base, messages = qwen["base"], chat(QUESTION, "it is five.", "no?")
    head = base.apply_template(messages, add_generation_prompt=True)
    stripped = base.decode(base.encode(head + ANSWER), skip_special_tokens=True)
    plain = Formatter(bert, "plain", 512).texts([(messages, ANSWER)])[0]
    assert plain.tokens.tolist() == bert.hf(stripped)["input_ids"]


def test_chat_is_the_tokenizers_template(letters):
    formatter = Formatter(letters, "chat", 512)
    messages = [*chat(QUESTION), {"role": "assistant", "content": ANSWER}]
    text = formatter.texts([(chat(QUESTION), ANSWER)])[0]
    assert text.tokens.tolist() == letters.encode(letters.apply_template(messages))


def test_text_is_the_one_turn_of_the_user_or_the_assistant(bert, letters):
    for formatter in (
        Formatter(letters, "chat", 512),
        Formatter(bert, "plain", 512),
        Formatter(bert, "pair", 512),
    ):
        answer = [{"role": "assistant", "content": ANSWER}]
        assert read(formatter, QUESTION, ANSWER) == read(formatter, chat(QUESTION), answer)


def test_a_chat_of_several_turns_names_them_in_its_segment(bert):
    formatter = Formatter(bert, "pair", 64)
    assert read(formatter, chat("yes?", "no.", "what?"), "it is.") == (
        "[CLS] user yes? assistant no. user what? [SEP] it is. [SEP]"
    )


def test_a_decoder_finds_one_end_behind_plain_text(letters, llama_like):
    for tokenizer in (letters, llama_like):
        text = Formatter(tokenizer, "plain", 512).texts([("yes?", "no.")])[0].tokens.tolist()
        assert text[: len(tokenizer.prefix_ids)] == tokenizer.prefix_ids
        assert text.index(tokenizer.eos_id) == len(text) - 1


def test_an_empty_response_can_be_scored(bert):
    assert read(Formatter(bert, "pair", 64), QUESTION, "").endswith("? [SEP] [SEP]")


@pytest.mark.parametrize("preset", ["chat", "plain", "pair"])
def test_a_cut_text_keeps_its_response_and_its_special_tokens(preset, bert, letters):
    tokenizer = letters if preset == "chat" else bert
    prompt = "0 1 2 3 4 5 6 7 8 9"
    whole = Formatter(tokenizer, preset, 512)
    shorter = [whole.texts([(prompt[i:], ANSWER)])[0] for i in range(len(prompt) + 1)]
    for tokens in range(len(shorter[-1].tokens), len(shorter[0].tokens)):
        made = Formatter(tokenizer, preset, tokens).formatted([(prompt, ANSWER)])[0]
        longest = next(text for text in shorter if len(text.tokens) <= tokens)
        assert made.text is not None
        assert made.text.tokens.tolist() == longest.tokens.tolist()
        assert made.text.types.tolist() == longest.types.tolist()
        assert made.is_cut
        assert made.length == len(shorter[0].tokens)


def test_the_oldest_exchanges_go_first_and_the_system_stays(letters):
    system = {"role": "system", "content": "Be short."}
    prompt = [system, *chat("first", "1st", "second", "2nd", "third")]
    formatted = lambda turns, tokens: Formatter(letters, "chat", tokens).formatted([(turns, "ok")])
    length = lambda turns: formatted(turns, 512)[0].length
    without_first, without_both = [system, *prompt[3:]], [system, prompt[5]]
    for tokens, expected in (
        (length(prompt), prompt),
        (length(prompt) - 1, without_first),
        (length(without_first), without_first),
        (length(without_first) - 1, without_both),
        (length(without_both) - 2, [system, *chat("ird")]),
    ):
        text = formatted(prompt, tokens)[0].text
        assert letters.decode(text.tokens) == letters.apply_template(
            [*expected, {"role": "assistant", "content": "ok"}]
        )


def test_a_response_that_does_not_fit_alone_is_dropped(bert):
    formatter = Formatter(bert, "pair", 12)
    made = formatter.formatted([("yes?", "no " * 9), ("yes?", "no " * 10), (QUESTION, ANSWER)])
    assert [None if one.text is None else len(one.text.tokens) for one in made] == [12, None, 12]
    assert [one.length for one in made] == [14, 15, 13]
    with pytest.raises(ValueError, match=r"1 of 2 texts do not fit into the 12 .* response 1 \(15"):
        formatter.texts([("yes?", "no " * 9), ("yes?", "no " * 10)])


def test_dropping_cuts_nothing(bert):
    made = Formatter(bert, "pair", 12, "drop").formatted([(QUESTION, ANSWER), ("yes?", "no")])
    assert made[0].text is None
    assert not made[0].is_cut
    assert (made[0].length, made[1].length) == (13, 6)
    with pytest.raises(ValueError, match="too_long = 'drop' cuts nothing"):
        Formatter(bert, "pair", 12, "drop").texts([(QUESTION, ANSWER)])


def test_the_usual_form_follows_from_the_tokenizer(letters, bert, deberta, llama_like):
    plain = small_tokenizer(chat_template=None, eos_token="<end>")
    kinds = (letters, bert, deberta, plain)
    assert [default_preset(t) for t in kinds] == ["chat", "pair", "pair", "plain"]


def test_forms_that_a_tokenizer_cannot_have_are_refused_together(bert, letters):
    with pytest.raises(ValueError, match=r"needs a chat template.*\n?.*Set 'pair'"):
        Formatter(bert, "chat", 64)
    with pytest.raises(ValueError, match=r"puts a token between two texts.*Set 'chat'"):
        Formatter(letters, "pair", 64)
    with pytest.raises(ValueError, match=r"tokens = 3 leaves no room.* puts 3 tokens around"):
        Formatter(bert, "pair", 3)


def test_turns_that_are_no_text_are_refused(bert):
    image = [{"role": "user", "content": [{"type": "image"}]}]
    with pytest.raises(ValueError, match="Only text can be written without a chat template"):
        Formatter(bert, "pair", 64).texts([(image, "yes")])
    with pytest.raises(ValueError, match="surrogates not allowed"):
        Formatter(bert, "pair", 64).texts([("yes", "\ud800")])
