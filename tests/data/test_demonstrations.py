"""Facts about encoding whole data sets, and about counting what is lost."""

import json

import numpy as np
import pytest

from rlft_jax.data.chat import encode_example
from rlft_jax.data.demonstrations import Demonstrations, encode_rows
from rlft_jax.data.inspection import describe

# With the stop token they have 4, 6 and 12 tokens.
ROWS = [{"prompt": "a" * n, "completion": "b" * n + "c"} for n in (1, 2, 5)]


@pytest.fixture
def file(tmp_path):
    """A file of 20 rows, n + 4 tokens long."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a" * n, "completion": "bc!"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_many_rows_are_encoded_as_one_is(letters):
    rows = ROWS * 400  # more than are encoded together
    examples, _ = encode_rows(rows, letters, tokens=100)
    for example, row in zip(examples, rows, strict=True):
        expected = encode_example(row, letters)
        np.testing.assert_array_equal(example.tokens, expected.tokens)
        np.testing.assert_array_equal(example.is_response, expected.is_response)


def test_long_rows_are_dropped_and_counted(letters):
    examples, report = encode_rows(ROWS, letters, tokens=6)
    assert [len(example.tokens) for example in examples] == [4, 6]
    assert (report.rows, report.kept, report.too_long, report.truncated) == (3, 2, 1, 0)
    assert (report.tokens, report.response_tokens, report.stops) == (10, 7, 2)
    assert report.percentiles == {50: 6, 90: 12, 99: 12, 100: 12}


def test_cut_rows_are_counted_and_have_no_stop_token(letters):
    examples, report = encode_rows(ROWS, letters, tokens=6, too_long="truncate")
    assert [len(example.tokens) for example in examples] == [4, 6, 6]
    assert (report.kept, report.truncated, report.too_long, report.stops) == (3, 1, 0, 2)


def test_a_row_cut_before_its_completion_has_nothing_to_learn(letters):
    examples, report = encode_rows(ROWS, letters, tokens=5, too_long="truncate")
    assert len(examples) == 2
    assert (report.kept, report.truncated, report.nothing_to_learn) == (2, 1, 1)


def test_a_chat_without_an_assistant_has_nothing_to_learn(letters):
    rows = [*ROWS, {"messages": [{"role": "user", "content": "Hi"}]}]
    _, report = encode_rows(rows, letters, tokens=100)
    assert (report.kept, report.nothing_to_learn) == (3, 1)


def test_long_rows_are_refused_on_request(letters):
    with pytest.raises(ValueError, match=r"row 2: 12 tokens, more than config\.batch\.tokens = 6"):
        encode_rows(ROWS, letters, tokens=6, too_long="error")


def test_bad_rows_are_reported_together_with_their_numbers(letters):
    rows = [ROWS[0], {"question": "?"}, ROWS[1], {"text": "half a pair: \ud800"}]
    with pytest.raises(ValueError, match=r"row 1: The columns question(.|\n)*row 3: .*surrogates"):
        encode_rows(rows, letters, tokens=100)
    with pytest.raises(ValueError, match="only the first 5") as error:
        encode_rows([{"question": "?"}] * 1000, letters, tokens=100)
    assert str(error.value).count("row ") == 5


def test_rows_keep_their_numbers_when_others_are_held_out(letters, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [*ROWS, *ROWS, {"question": "?"}, *ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"rows\.jsonl(.|\n)*- line 7: "):
        Demonstrations(path=str(path), holdout=4.0).read(letters, 100, 0)


def test_progress_ends_at_the_number_of_rows(letters):
    calls = []
    encode_rows(ROWS * 200, letters, tokens=9, progress=lambda *call: calls.append(call))
    assert calls == [(512, 600), (600, 600)]


def test_held_out_rows_are_not_trained_on(letters, file):
    data = Demonstrations(path=str(file), holdout=5.0).read(letters, 100, 0)
    lengths = [len(example.tokens) for example in [*data.parts[0], *data.heldout]]
    assert (len(data.parts[0]), len(data.heldout)) == (15, 5)
    assert sorted(lengths) == [n + 4 for n in range(20)]
    assert (data.report.kept, data.heldout_report.kept) == (15, 5)


def test_another_file_can_be_held_out(letters, file):
    data = Demonstrations(path=str(file), heldout_path=str(file), holdout=3.0).read(letters, 100, 0)
    assert (len(data.parts[0]), len(data.heldout)) == (20, 3)
    data = Demonstrations(path=str(file), limit=7, heldout_path=str(file)).read(letters, 100, 0)
    assert (len(data.parts[0]), len(data.heldout)) == (7, 20)


def test_parts_of_a_mixture_have_their_own_settings(letters, file, tmp_path):
    countdown = tmp_path / "countdown.jsonl"
    countdown.write_text(json.dumps({"nums": [44, 19, 35], "target": 98}) + "\n")
    mixture = [
        {"path": str(file), "limit": 4},
        {"path": str(countdown), "task": "countdown", "template": "chat", "weight": 3},
    ]
    data = Demonstrations(mixture=mixture).read(letters, 2000, 0)
    assert [len(part) for part in data.parts] == [4, 1]
    assert data.weights == [1.0, 3]
    assert data.report.rows == 5
    example = data.parts[1][0]
    response = letters.decode(example.tokens[example.is_response])
    assert response.endswith("</answer><|im_end|>")


def test_a_task_writes_prompts_and_completions(letters, shared_data):
    path = shared_data / "countdown/solution_steps_eval.jsonl.gz"
    data = Demonstrations(path=str(path), task="countdown", limit=20).read(letters, 2000, 0)
    assert data.report.kept == data.report.stops == 20
    text = letters.decode(data.parts[0][0].tokens)
    assert text.startswith("A conversation between User and Assistant.")
    assert text.endswith("</answer><end>")


def test_when_nothing_is_left_that_is_said(letters, file):
    with pytest.raises(ValueError, match=r"of 20 rows 20 are longer than config\.batch\.tokens"):
        Demonstrations(path=str(file)).read(letters, 3, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Set one of the two"),
        ({"path": "a", "mixture": [{"path": "b"}]}, "Set one of the two"),
        ({"mixture": [{"path": "a", "wieght": 1}]}, r"part 0 .*unknown are \['wieght'\]"),
        ({"mixture": [{"path": "a"}, {"path": "b", "weight": 0}]}, "part 1 has weight 0"),
    ],
)
def test_sources_that_cannot_be_are_refused(letters, settings, message):
    with pytest.raises(ValueError, match=message):
        Demonstrations(**settings).read(letters, 100, 0)


def test_a_task_that_does_not_exist_is_refused(letters, file):
    with pytest.raises(ValueError, match=r"no task 'countdwon'.*countdown, gsm8k"):
        Demonstrations(path=str(file), task="countdwon").read(letters, 100, 0)


def test_inspection_shows_what_is_trained_on(letters):
    examples, report = encode_rows(ROWS, letters, tokens=6)
    text = describe(report, examples, letters, count=1, colour=False)
    assert "a⟦b|c|<end>⟧" in text
    assert "kept                       2 (66.7%)" in text
    assert "dropped, too long          1 (33.3%)" in text
    assert "50% 6, 90% 12, 99% 12, longest 12" in text
    assert "stop token trained on      yes" in text


def test_inspection_says_where_no_stop_token_is_trained_on(letters):
    examples, report = encode_rows(ROWS, letters, tokens=6, too_long="truncate")
    assert "in 2 of 3" in describe(report, examples, letters)
    letters.hf.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    row = {"messages": [{"role": r, "content": "Hi"} for r in ("user", "assistant")]}
    examples, report = encode_rows([row], letters, tokens=100)
    assert "NO: the model will not learn when to stop" in describe(report, examples, letters)


def test_inspection_colours_by_loss_and_lets_no_text_act_on_the_terminal(letters):
    row = {"prompt": "a\x1b[2J\n", "completion": "b"}
    examples, report = encode_rows([row], letters, tokens=100)
    text = describe(report, examples, letters, colour=True)
    assert "\x1b[30;42mb\x1b[30;102m<end>\x1b[0m" in text
    assert "\x1b[2J" not in text
    assert "\\x1b" in text
    assert "⏎\x1b[0m\n" in text
    assert "\x1b" not in describe(report, examples, letters, colour=False)


def test_inspection_shortens_what_is_long(letters):
    examples, report = encode_rows(
        [{"prompt": "p" * 5000, "completion": "b"}], letters, tokens=9999
    )
    text = describe(report, examples, letters, colour=False)
    assert "… 4,400 more tokens …" in text
    assert len(text) < 3000
