"""Pairs and graded texts: what is kept, what is dropped, and that it is counted."""

import json

import numpy as np
import pytest

from rlft_jax.data.formatting import Formatter
from rlft_jax.data.readers import read_rows
from rlft_jax.data.reward_data import RewardData, unused
from rlft_jax.data.reward_rows import (
    answered_of,
    graded_examples,
    pair_examples,
    texts_of,
)
from rlft_jax.packing import first_fit
from rlft_jax.texts import pack
from tests.data.encoder_tokenizers import wordpiece

USER = {"role": "user", "content": "yes?"}
ANSWER = {"role": "assistant", "content": "no."}


@pytest.fixture(scope="module")
def formatter(tmp_path_factory):
    return Formatter(wordpiece(["yes", "no"], tmp_path_factory.mktemp("bert")), "pair", 16)


def pair(**columns) -> dict:
    return {"prompt": "yes?", "chosen": "no.", "rejected": "no no", **columns}


def ultrafeedback(chosen: float, rejected: float) -> dict:
    """A row of HuggingFaceH4/ultrafeedback_binarized."""
    other = {"role": "assistant", "content": "no no"}
    return {
        "prompt": "yes?",
        "chosen": [USER, ANSWER],
        "rejected": [USER, other],
        "messages": [USER, ANSWER],
        "score_chosen": chosen,
        "score_rejected": rejected,
    }


def test_the_better_text_of_a_pair_comes_first(formatter):
    (example,), report = pair_examples([pair()], formatter)
    texts = [formatter.tokenizer.decode(text.tokens) for text in example.texts]
    assert texts == ["[CLS] yes? [SEP] no. [SEP]", "[CLS] yes? [SEP] no no [SEP]"]
    assert example.characters == (3, 5)
    assert (example.prompt, example.target, example.margin) == ("yes?", None, None)
    assert (report.kept, report.rows, report.tokens, report.lengths.tolist()) == (1, 1, 14, [7])


def test_equally_good_pairs_are_dropped_and_counted(formatter):
    rows = [ultrafeedback(8.0, 8.0), ultrafeedback(8.0, 7.5), pair(rejected="no."), pair()]
    examples, report = pair_examples(rows, formatter)
    assert (len(examples), report.kept, report.equal, report.rows) == (2, 2, 2, 4)


def test_long_pairs_lose_some_prompt_or_are_left_out(formatter):
    rows = [pair(prompt="yes " * 9), pair(prompt="yes " * 12), pair(chosen="no " * 20), pair()]
    examples, report = pair_examples(rows, formatter)
    assert (report.kept, report.truncated, report.too_long) == (3, 1, 1)
    assert [len(example.texts[0].tokens) for example in examples] == [14, 16, 7]
    assert report.lengths.tolist() == [14, 17, 25, 7]
    dropping = Formatter(formatter.tokenizer, "pair", 16, "drop")
    examples, report = pair_examples(rows, dropping)
    assert (report.kept, report.truncated, report.too_long) == (2, 0, 2)


def test_margins_and_sources_are_columns_that_are_named(formatter):
    rows = [pair(gap=n, meta={"subset": "a"}) for n in (1, 0.5)]
    examples, _ = pair_examples(rows, formatter, margin_column="gap", source_column="meta.subset")
    assert [example.margin for example in examples] == [1.0, 0.5]
    assert [example.source for example in examples] == ["a", "a"]
    texts = texts_of(examples)
    assert texts.margins.tolist() == [1.0, 0.5]
    assert texts.targets is None
    assert texts.tokens.shape == (2, 2, 7)


def test_regression_takes_both_texts_of_a_graded_pair(formatter):
    examples, report = graded_examples([ultrafeedback(8.5, 8.5)], formatter)
    assert report.kept == 2
    texts = texts_of(examples)
    assert texts.targets.tolist() == [[8.5], [8.5]]
    assert texts.lengths.tolist() == [[7], [7]]
    assert texts.margins is None


def test_regression_takes_texts_with_a_score(formatter):
    rows = [
        {"prompt": "yes?", "completion": "no.", "stars": 3},
        {"messages": [USER, ANSWER], "stars": -1.5},
    ]
    examples, _ = graded_examples(rows, formatter, score_column="stars")
    assert [example.target for example in examples] == [3.0, -1.5]
    same = [example.texts[0].tokens.tolist() for example in examples]
    assert same[0] == same[1]


def test_examples_become_a_batch(formatter):
    rows = [pair(chosen="no " * n, gap=n) for n in (1, 5, 2, 7)]
    texts = texts_of(pair_examples(rows, formatter, margin_column="gap")[0])
    batch = pack(texts, first_fit(texts.lengths, tokens=16, micro_batches=2))
    assert batch.is_real.shape == (2, 2, 2)
    for m in range(2):
        for p in range(2):
            of_chosen = (batch.segments[m] == 2 * p + 1) & (batch.types[m] == 1)
            assert of_chosen.sum() == batch.margins[m, p] + 1  # the response and its [SEP]


def test_rows_with_a_prompt_and_a_response_are_read_in_every_form():
    assert answered_of({"prompt": "yes?", "completion": "no."}) == ("yes?", "no.")
    assert answered_of({"prompt": [USER], "completion": [ANSWER]}) == ([USER], [ANSWER])
    assert answered_of({"messages": [USER], "completion": "no."}) == ([USER], "no.")
    assert answered_of({"messages": [USER, ANSWER]}) == ([USER], [ANSWER])
    wrong = ({"messages": [USER]}, {"prompt": "yes?"}, {}, {"messages": [ANSWER]})
    for row in (*wrong, {"messages": ["yes?", "no."]}):
        with pytest.raises(ValueError, match="hold no prompt with its response"):
            answered_of(row)


def test_bad_rows_are_told_by_their_numbers(formatter, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [pair(), {"prompt": "yes?"}, pair(), pair(chosen="\ud800")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="line 2: The columns prompt"):
        pair_examples(read_rows(path), formatter)
    with pytest.raises(ValueError, match=r"line 4: .*surrogates"):
        pair_examples(read_rows(path, split="train[2:]"), formatter)
    with pytest.raises(ValueError, match="row 0: There is no column 'gap': the row has prompt"):
        pair_examples([pair()], formatter, margin_column="gap")
    for score in ("8", True, float("nan")):
        with pytest.raises(ValueError, match="not a finite number"):
            graded_examples([{"prompt": "a", "completion": "b", "score": score}], formatter)


def test_held_out_prompts_are_not_trained_on(formatter, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [pair(prompt=f"yes {i // 4}") for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = RewardData(path=str(path), holdout=7).read(formatter, "bradley_terry", 0)
    assert (len(data.parts[0]), len(data.heldout)) == (32, 8)
    assert not {e.prompt for e in data.heldout} & {e.prompt for e in data.parts[0]}

    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps(pair(prompt="yes 3")) + "\n")
    read = lambda **more: RewardData(path=str(path), heldout_path=str(test), **more).read(
        formatter, "bradley_terry", 0
    )
    with pytest.raises(ValueError, match="4 of 40 rows to train on"):
        read()
    data = read(shared_prompts="drop")
    assert (len(data.parts[0]), len(data.heldout)) == (36, 1)
    assert (data.report.kept, data.report.shared_prompts, data.report.rows) == (36, 4, 40)


def test_regression_reads_the_same_rows_as_graded_texts(formatter, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {**ultrafeedback(i, i), "prompt": None, "chosen": [{**USER, "content": f"{i}"}, ANSWER]}
        for i in range(4)
    ]
    for i, row in enumerate(rows):
        row["rejected"] = [{**USER, "content": f"{i}"}, {**ANSWER, "content": "yes"}]
        row["messages"] = row["chosen"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = RewardData(path=str(path), holdout=1).read(formatter, "regression", 0)
    assert (len(data.parts[0]), len(data.heldout)) == (6, 2)
    held = {example.target for example in data.heldout}
    assert held | {example.target for example in data.parts[0]} == {0, 1, 2, 3}
    assert len(held) == 1


def test_settings_that_the_loss_does_not_use_are_named():
    usual = {"margin_column": None, "score_column": "score"}
    assert unused("regression", usual) == unused("bradley_terry", usual) == []
    assert "margin_column = 'gap'" in unused("regression", {**usual, "margin_column": "gap"})[0]
    assert unused("bradley_terry", {**usual, "score_column": "stars"}) == [
        "config.data.score_column = 'stars' has no effect with config.objective.loss ="
        " 'bradley_terry'; leave it at 'score'."
    ]


def test_real_pairs_are_read_as_they_were_counted(shared_data, formatter):
    rows = read_rows(shared_data / "preference" / "llmbar.jsonl.gz")
    dropping = Formatter(formatter.tokenizer, "pair", 100_000)
    examples, report = pair_examples(rows, dropping, source_column="meta.subset")
    assert (report.rows, report.kept) == (315, 315)
    lengths = np.array([example.characters for example in examples])
    # The README of the data says 0.29 of the pairs are won by the longer answer.
    assert round(float((lengths[:, 0] > lengths[:, 1]).mean()), 2) == 0.29
    assert len({example.source for example in examples}) > 1
