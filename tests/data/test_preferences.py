"""Facts about pairs as examples: what is learned of them, what is dropped, what is held out."""

import json

import numpy as np
import pytest

from rlft_jax.batch import Responses
from rlft_jax.data.inspection import describe
from rlft_jax.data.preferences import Preferences, encode_pairs


def chat(prompt: str, chosen: str, rejected: str) -> dict:
    return {
        "messages": [{"role": "user", "content": prompt}],
        "chosen": chosen,
        "rejected": rejected,
    }


# In tokens with prompt and stop: 5 and 4, 6 and 6, 4 and 12.
ROWS = [
    {"prompt": "a", "chosen": "bcd", "rejected": "ef"},
    {"prompt": "aaa", "chosen": "bc", "rejected": "de"},
    {"prompt": "a", "chosen": "bc", "rejected": "d" * 10},
]


@pytest.fixture
def write(tmp_path):
    """Writes rows to a file and returns its path."""

    def written(rows: list[dict], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return written


def many(prompts: int = 10, pairs: int = 3) -> list[dict]:
    """Several pairs of each prompt, told apart by their responses."""
    return [chat(f"q{p}?", f"{p},{i}!", f"{p},{i}.") for p in range(prompts) for i in range(pairs)]


def texts(pairs, tokenizer) -> list[str]:
    return [tokenizer.decode(pair[0].tokens) for pair in pairs]


def test_responses_are_learned_with_their_stop_and_prompts_are_not(letters):
    (pair,), report = encode_pairs([chat("2+2?", "4", "five")], letters, tokens=99)
    said = [letters.decode(side.tokens[side.is_response]) for side in pair]
    assert said == ["4<|im_end|>", "five<|im_end|>"]
    given = [side.tokens[: int(side.is_response.argmax())].tolist() for side in pair]
    assert given[0] == given[1]
    assert letters.decode(given[0]).endswith("2+2?<|im_end|>\n<|im_start|>assistant\n")
    assert (report.kept, report.stops) == (1, 1)
    lengths = [len(side.tokens) for side in pair]
    assert (report.tokens, report.percentiles[100]) == (sum(lengths), max(lengths))


def test_pairs_make_responses_with_the_chosen_one_first(letters):
    pairs, _ = encode_pairs(ROWS, letters, tokens=99)
    responses = Responses.of(pairs)
    np.testing.assert_array_equal(responses.lengths, [[5, 4], [6, 6], [4, 12]])


def test_a_pair_with_one_long_side_is_dropped_whole_and_counted(letters):
    pairs, report = encode_pairs(ROWS, letters, tokens=6)
    assert len(pairs) == 2
    assert (report.rows, report.kept, report.too_long) == (3, 2, 1)
    pairs, report = encode_pairs(ROWS, letters, tokens=6, too_long="truncate")
    assert [len(side.tokens) for side in pairs[2]] == [4, 6]
    assert (report.kept, report.truncated, report.stops) == (3, 1, 2)
    with pytest.raises(ValueError, match=r"row 2: 12 tokens, more than config\.batch\.tokens = 6"):
        encode_pairs(ROWS, letters, tokens=6, too_long="error")


def test_equal_pairs_are_dropped_even_if_only_cutting_made_them_so(letters):
    rows = [*ROWS, {"prompt": "a", "chosen": "b", "rejected": "b"}, chat("?", "4", "4")]
    _, report = encode_pairs(rows, letters, tokens=99)
    assert (report.rows, report.kept, report.equal) == (5, 3, 2)
    late = [{"prompt": "a", "chosen": "bbbbc", "rejected": "bbbbd"}]
    _, report = encode_pairs(late, letters, tokens=5, too_long="truncate")
    assert (report.kept, report.equal, report.truncated) == (0, 1, 0)


def test_a_side_cut_before_its_response_teaches_nothing(letters):
    _, report = encode_pairs(ROWS, letters, tokens=3, too_long="truncate")
    assert (report.kept, report.nothing_to_learn, report.truncated) == (2, 1, 2)


def test_first_turns_are_cut_after_the_answer_and_later_ones_left_out(letters):
    turn = lambda role, text: {"role": role, "content": text}
    start = [turn("user", "2+2?")]
    whole = {
        "chosen": [*start, turn("assistant", "4"), turn("user", "Sure?"), turn("assistant", "Yes")],
        "rejected": [*start, turn("assistant", "5")],
    }
    later = {"messages": [*whole["chosen"][:3]], "chosen": "Yes", "rejected": "No"}
    pairs, report = encode_pairs([whole, later], letters, tokens=999)
    said = lambda side: letters.decode(side.tokens[side.is_response])
    assert (said(pairs[0][0]), said(pairs[1][0])) == ("4<|im_end|>Yes<|im_end|>", "Yes<|im_end|>")
    pairs, report = encode_pairs([whole, later], letters, tokens=999, turns="first")
    assert [said(side) for side in pairs[0]] == ["4<|im_end|>", "5<|im_end|>"]
    assert (report.rows, report.kept, report.later_turns) == (2, 1, 1)
    assert "Sure?" not in letters.decode(pairs[0][0].tokens)


@pytest.mark.parametrize("holdout", [7, 0.2])
def test_a_prompt_is_on_one_side_only(letters, write, holdout):
    data = Preferences(path=write(many()), holdout=holdout).read(letters, 999, 0)
    prompt = lambda text: text.split("?")[0]
    train, heldout = texts(data.parts[0], letters), texts(data.heldout, letters)
    assert not {*map(prompt, train)} & {*map(prompt, heldout)}
    assert len(train) + len(heldout) == 30 == len({*train, *heldout})
    assert len(heldout) == {7: 9, 0.2: 6}[holdout]  # whole prompts, at least as many rows
    assert (data.report.kept, data.heldout_report.kept) == (len(train), len(heldout))


def test_a_prompt_is_on_one_side_of_the_whole_mixture(letters, write):
    mixture = [
        {"path": write(many(), "a.jsonl")},
        {"path": write(many(20, 1), "b.jsonl"), "weight": 2},
    ]
    data = Preferences(mixture=mixture, holdout=4).read(letters, 999, 1)
    prompt = lambda text: text.split("?")[0]
    heldout = {prompt(text) for text in texts(data.heldout, letters)}
    assert not any(prompt(text) in heldout for part in data.parts for text in texts(part, letters))
    assert data.weights == [1.0, 2]


def test_prompts_shared_with_another_file_are_refused_or_left_out(letters, write):
    train, other = write(many(10)), write(many(4), "held.jsonl")
    with pytest.raises(ValueError, match=r"12 of 30 rows.*shared_prompts = 'drop'"):
        Preferences(path=train, heldout_path=other).read(letters, 999, 0)
    data = Preferences(path=train, heldout_path=other, shared_prompts="drop").read(letters, 999, 0)
    assert (data.report.kept, data.report.shared_prompts, data.report.rows) == (18, 12, 30)
    assert len(data.heldout) == 12
    with pytest.raises(ValueError, match="Nothing is left"):
        Preferences(path=train, heldout_path=train, shared_prompts="drop").read(letters, 999, 0)


def test_parts_of_a_mixture_may_differ_in_their_turns(letters, write):
    turn = lambda role, text: {"role": role, "content": text}
    start = [turn("user", "2+2?"), turn("assistant", "4"), turn("user", "Sure?")]
    path = write([{"messages": start, "chosen": "Yes", "rejected": "No"}, chat("1+1?", "2", "3")])
    mixture = [{"path": path}, {"path": path, "turns": "first"}]
    data = Preferences(mixture=mixture).read(letters, 999, 0)
    assert [len(part) for part in data.parts] == [2, 1]
    assert data.report.later_turns == 1


def test_bad_rows_are_named_with_their_file(letters, write):
    path = write([*ROWS, {"question": "?"}])
    for holdout in (0, 1):
        with pytest.raises(ValueError, match=r"rows\.jsonl(.|\n)*- line 4: The columns question"):
            Preferences(path=path, holdout=holdout).read(letters, 99, 0)


def test_when_nothing_is_left_all_reasons_are_given(letters, write):
    path = write([*ROWS[2:], chat("?", "4", "4")])
    with pytest.raises(ValueError, match=r"of 2 rows 2 are longer than config\.batch\.tokens\."):
        Preferences(path=path).read(letters, 3, 0)
    with pytest.raises(ValueError, match=r"of 1 rows 1 are pairs of equal responses\."):
        Preferences(path=write([chat("?", "4", "4")])).read(letters, 99, 0)


def test_tasks_have_no_say(letters, write):
    with pytest.raises(ValueError, match=r"unknown are \['task'\]"):
        Preferences(mixture=[{"path": write(ROWS), "task": "countdown"}]).read(letters, 99, 0)


def test_inspection_counts_what_only_pairs_lose(letters):
    pairs, report = encode_pairs([*ROWS, chat("?", "4", "4")], letters, tokens=99)
    text = describe(report, [side for pair in pairs for side in pair], letters, colour=False)
    assert "dropped, equal responses   1 (25.0%)" in text
    assert "later turns" not in text


@pytest.mark.parametrize(
    ("name", "rows", "equal"),
    [
        ("polite_style_1100", 1099, 6),
        ("ultrafeedback_1200", 998, 5),
        ("oasst_en100_ranked", 746, 0),
        ("dpo_demo_300", 299, 0),
    ],
)
def test_real_pairs_are_read(letters, shared_data, name, rows, equal):
    path = shared_data / f"preference/{name}.jsonl.gz"
    data = Preferences(path=str(path), holdout=0.1).read(letters, 100_000, 0)
    report, heldout = data.report, data.heldout_report
    assert report.rows + heldout.rows == rows
    assert report.equal + heldout.equal == equal
    assert report.kept == report.stops == report.rows - report.equal
    assert 0.1 * rows - 1 <= heldout.rows < 0.1 * rows + 30


def test_real_prompts_with_many_pairs_stay_together(letters, shared_data):
    path = shared_data / "preference/alpaca_eval_gpt4.jsonl.gz"
    data = Preferences(path=str(path), limit=2000, holdout=200).read(letters, 100_000, 0)
    prompt = lambda pair: bytes(pair[0].tokens[: int(pair[0].is_response.argmax())].tobytes())
    train, heldout = map(prompt, data.parts[0]), map(prompt, data.heldout)
    assert not {*train} & {*heldout}
    assert 200 <= len(data.heldout) < 220


def test_rows_without_pairs_are_refused(letters, shared_data):
    path = shared_data / "preference/kto_demo_300.jsonl.gz"
    with pytest.raises(ValueError, match=r"kto_demo(.|\n)*messages \(list\), label \(bool\)"):
        Preferences(path=str(path)).read(letters, 999, 0)


def test_pairs_of_a_task_with_text_prompts_are_read(letters, shared_data):
    path = shared_data / "countdown/dpo_pairs_qwen25_05b.jsonl.gz"
    data = Preferences(path=str(path), limit=50).read(letters, 100_000, 0)
    assert data.report.kept == data.report.stops == 50
    assert letters.decode(data.parts[0][0][1].tokens).endswith("<end>")
