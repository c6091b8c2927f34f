"""Facts about tokenizers, on the real Qwen2.5 vocabulary where it is at hand."""

import json
import unicodedata

import pytest
import transformers

from rlft_jax.data.chat import encode_prompt
from rlft_jax.data.tokenizer import Tokenizer, load_tokenizer, stop_ids


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_real_texts_give_the_ids_they_should(shared_data, qwen):
    golden = records(shared_data / "tokenizers/qwen2.5/golden_encode.jsonl")
    assert len(golden) == 225
    for case in golden:
        assert qwen["instruct"].encode(case["text"]) == case["ids"]
        normalised = unicodedata.normalize("NFC", case["text"])
        assert (qwen["instruct"].decode(case["ids"]) == normalised) == case["roundtrip_equals_nfc"]
    batch = qwen["instruct"].encode_batch([case["text"] for case in golden])
    assert batch == [case["ids"] for case in golden]


def test_real_chats_give_the_text_and_ids_they_should(shared_data, qwen):
    golden = records(shared_data / "tokenizers/qwen2.5/golden_chat.jsonl")
    assert len(golden) == 52
    for case in golden:
        tokenizer, tools = qwen[case["template"]], case["tools"]
        text = tokenizer.apply_template(
            case["messages"], tools=tools, add_generation_prompt=case["add_generation_prompt"]
        )
        assert text == case["text"]
        assert tokenizer.encode(text) == case["ids"]
        if case["add_generation_prompt"] and case["messages"][-1]["role"] != "assistant":
            assert (
                encode_prompt(case["messages"], tokenizer, columns={"tools": tools}) == case["ids"]
            )


def test_qwen_stops_at_the_ends_of_texts_and_of_turns(qwen):
    assert stop_ids(qwen["instruct"]) == (151645, 151643)
    assert stop_ids(qwen["base"]) == (151643, 151645)
    assert stop_ids(qwen["base"], {"eos_token_id": [151645, 7]}) == (151643, 151645, 7)
    assert stop_ids(qwen["base"], {"eos_token_id": 7}) == (151643, 7, 151645)


def test_qwen_ids_and_sizes(qwen):
    tokenizer = qwen["instruct"]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (151645, 151643, 151665)
    assert tokenizer.prefix_ids == []


def test_saving_changes_nothing(qwen, tmp_path):
    qwen["instruct"].save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == qwen["instruct"].fingerprint
    assert loaded.fingerprint != qwen["base"].fingerprint


def test_tokenizer_json_with_its_config_is_enough(letters, tmp_path):
    letters.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("3 + 5 = 8") == letters.encode("3 + 5 = 8")
    assert loaded.chat_template is None
    with pytest.raises(ValueError, match="no chat template"):
        loaded.apply_template([{"role": "user", "content": "Hi"}])


def test_truncation_baked_into_a_file_is_not_obeyed(letters, tmp_path):
    letters.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(content))
    assert len(load_tokenizer(tmp_path).encode("3 + 5 = 8")) == 9


def test_a_folder_with_a_config_alone_is_refused(tmp_path):
    # transformers makes a tokenizer of one word from it, without a sound.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path)) == 1
    with pytest.raises(ValueError, match="holds no vocabulary"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "a/b/c", ""])
def test_a_missing_folder_is_refused(path):
    with pytest.raises(ValueError, match="is not a folder here"):
        load_tokenizer(path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


def test_a_template_cannot_leave_its_sandbox(letters):
    letters.hf.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ValueError, match="unsafe"):
        letters.apply_template([{"role": "user", "content": "Hi"}])


def test_what_a_template_refuses_is_told(letters):
    letters.hf.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="roles must alternate"):
        letters.apply_template([{"role": "user", "content": "Hi"}])


def test_plain_text_starts_as_the_tokenizer_wants(llama_like: Tokenizer):
    assert encode_prompt("3", llama_like)[0] == llama_like.id_of("<s>")
    assert encode_prompt("3", llama_like)[1:] == llama_like.encode("3")
