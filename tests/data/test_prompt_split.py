"""No prompt is on both sides of a split."""

import numpy as np
import pytest

from rlft_jax.data.prompt_split import prompt_keys, split_by_prompt, without_shared_prompts
from rlft_jax.data.readers import read_rows


def pairs(prompts: list[str]) -> list[dict]:
    """One pair for each prompt; equal prompts have different responses."""
    return [{"prompt": p, "chosen": f"yes {i}", "rejected": "no"} for i, p in enumerate(prompts)]


ROWS = pairs([f"question {i // 5}" for i in range(100)])
OTHERS = pairs([f"question {i}" for i in range(10, 60)])


@pytest.mark.parametrize("holdout", [1, 5, 23, 0.1, 0.5])
def test_all_rows_of_a_prompt_are_on_one_side(holdout):
    (train, heldout), (other_train, other_heldout) = split_by_prompt(
        [ROWS, OTHERS], holdout, seed=0
    )
    trained = {*prompt_keys(train), *prompt_keys(other_train)}
    held = {*prompt_keys(heldout), *prompt_keys(other_heldout)}
    assert not trained & held
    assert len(train) + len(heldout) == 100
    assert len(other_train) + len(other_heldout) == 50
    wanted = holdout * 100 if holdout < 1 else holdout
    assert wanted <= len(heldout) < wanted + 5 + 5 * len(other_heldout)
    assert len(other_heldout) >= (holdout * 50 if holdout < 1 else holdout)
    assert sorted([*train.numbers, *heldout.numbers]) == list(range(100))


def test_the_seed_chooses_prompts_and_the_order_of_rows_does_not():
    held = lambda rows, seed: set(prompt_keys(split_by_prompt([rows], 20, seed=seed)[0][1]))
    assert len(held(ROWS, 0)) == 4
    assert held(ROWS, 0) == held(ROWS[::-1], 0)
    assert len({frozenset(held(ROWS, seed)) for seed in range(5)}) == 5


def test_the_ways_to_write_a_prompt_are_one_prompt():
    chat = [{"role": "user", "content": "Why? "}]
    longer = [*chat, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    keys = prompt_keys([{"prompt": p, "chosen": "x", "rejected": "y"} for p in ("Why?", chat)])
    keys += prompt_keys([{"messages": longer, "chosen": "x", "rejected": "y"}])
    assert len(set(keys)) == 1


def test_a_single_prompt_cannot_be_parted():
    with pytest.raises(ValueError, match=r"leaves nothing of 3 rows .* there are 1 prompts"):
        split_by_prompt([pairs(["Why?"] * 3)], 1, seed=0)
    with pytest.raises(ValueError, match="row 1: The columns prompt"):
        split_by_prompt([[ROWS[0], {"prompt": "Why?"}]], 1, seed=0)


def test_shared_prompts_are_refused_or_left_out():
    heldout = pairs(["question 3", "question 7", "question 99"])
    with pytest.raises(ValueError, match=r"10 of 100 rows .* such as 'question 3'.*shared_prompts"):
        without_shared_prompts([ROWS], [heldout])
    (kept,), shared = without_shared_prompts([ROWS], [heldout], shared_prompts="drop")
    assert (len(kept), shared) == (90, 10)
    assert not {"question 3", "question 7"} & set(prompt_keys(kept))
    with pytest.raises(ValueError, match="Nothing is left"):
        without_shared_prompts([pairs(["question 3"])], [heldout], shared_prompts="drop")


def test_real_sets_that_share_prompts_are_not_trained_and_tested_on(shared_data):
    folder = shared_data / "preference"
    train = read_rows(folder / "alpaca_eval_gpt4.jsonl.gz")
    test = read_rows(folder / "llmbar.jsonl.gz")
    with pytest.raises(ValueError, match="rows to train on have prompts that are also held out"):
        without_shared_prompts([train], [test])
    (kept,), shared = without_shared_prompts([train], [test], shared_prompts="drop")
    assert shared > 0
    assert not set(prompt_keys(kept)) & set(prompt_keys(test))
    ((rest, heldout),) = split_by_prompt([kept], 0.1, seed=0)
    assert 0.1 <= len(heldout) / len(kept) < 0.11
    texts = lambda rows: {row["messages"][0]["content"] for row in rows}
    assert not texts(rest) & texts(heldout)
    assert np.all(np.diff(heldout.numbers) > 0)
