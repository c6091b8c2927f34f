"""Mistakes in a file of requests are found before a model is loaded, each with its line."""

import gzip
import json

import pytest

from rlft_jax.commands.requests import encode_requests, read_requests


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        path = tmp_path / "requests.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


def test_lines_keep_their_order_and_number_and_blank_ones_do_not_count(file):
    path = file('{"prompt": "a", "id": 7}', "", '{"messages": [{"role": "user", "content": "b"}]}')
    first, second = read_requests(path)
    assert (first.line, second.line) == (1, 3)
    assert first.row == {"prompt": "a", "id": 7}
    assert second.prompt == [{"role": "user", "content": "b"}]


def test_a_packed_file_reads_the_same(file, tmp_path):
    packed = tmp_path / "requests.jsonl.gz"
    packed.write_bytes(gzip.compress(file('{"prompt": "é"}').read_bytes()))
    assert read_requests(packed)[0].prompt == "é"


def test_all_bad_lines_are_told_at_once(file):
    path = file(
        '{"prompt": "fine"}',
        "{prompt: 1}",
        '{"text": "no prompt"}',
        '{"prompt": "both", "messages": []}',
        '{"prompt": 3}',
        "[1]",
    )
    with pytest.raises(ValueError, match="cannot be used") as error:
        read_requests(path)
    told = str(error.value)
    assert "- line 1 " not in told
    assert all(f"- line {n} " in told for n in (2, 3, 4, 5, 6))


def test_half_a_character_is_told_with_its_line(file):
    rows = [{"prompt": "a\ud800"}, {"messages": [{"role": "user", "content": "\udc00"}]}]
    path = file(*map(json.dumps, [*rows, {"prompt": "whole: \U0001f600"}]))
    with pytest.raises(ValueError, match="cannot be used") as error:
        read_requests(path)
    told = str(error.value)
    assert "- line 1: It holds \\ud800, half of a character" in told
    assert "- line 2: It holds \\udc00" in told
    assert "line 3" not in told
    with pytest.raises(ValueError, match=r"line 1: It holds \\ud83d"):
        read_requests(file('{"prompt": "a", "completion": "\\ud83d"}'), with_completion=True)


def test_of_many_bad_lines_ten_are_told(file):
    with pytest.raises(ValueError, match="and 15 more") as error:
        read_requests(file(*["{"] * 25))
    assert str(error.value).count("- line ") == 10


def test_completions_are_asked_for_where_they_are_scored(file):
    path = file('{"prompt": "a", "completion": "b"}', '{"prompt": "a"}')
    with pytest.raises(ValueError, match='line 2 has no "completion"'):
        read_requests(path, with_completion=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("\n", "no lines"),
        ("[" * 10**5, "cannot be read as JSON"),
    ],
)
def test_files_that_hold_nothing_are_refused(tmp_path, content, said):
    path = tmp_path / "requests.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_requests(path)


def test_prompts_that_leave_no_room_are_told_with_their_lines(file, tokenizer):
    path = file(json.dumps({"prompt": "a" * 8}), json.dumps({"prompt": "b" * 9}), '{"prompt": ""}')
    with pytest.raises(ValueError, match="cannot be used") as error:
        encode_requests(path, read_requests(path), tokenizer, positions=10, following=[2, 2, 2])
    told = str(error.value)
    assert "line 1" not in told
    assert "line 2: 9 tokens of prompt and 2 after it exceed the model's 10 positions" in told
    assert "line 3: A prompt is empty" in told
