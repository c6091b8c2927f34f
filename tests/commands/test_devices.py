"""What a command writes does not depend on how many devices it has."""

import json

import jax
import numpy as np
import pytest

from rlft_jax.commands.evaluate import evaluate
from rlft_jax.commands.generate import generate
from rlft_jax.commands.logprobs import logprobs
from rlft_jax.runs import inference

PROMPTS = [{"prompt": text} for text in ("Hello", "Good bye", "x")]
# Seventeen rows on eight devices: two whole rounds of the small batches, and one row left.
SCORED = [{"prompt": "a" * (n % 5 + 1), "completion": "b" * (n % 7)} for n in range(17)]


@pytest.fixture
def on_all_and_on_one(monkeypatch, one_device):
    """Calls a function with eight devices, then with one; returns both results."""

    def both(act):
        on_all = act()
        monkeypatch.setattr(inference, "make_mesh", lambda **_: one_device)
        return on_all, act()

    assert jax.device_count() == 8
    return both


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluations_are_the_same(on_all_and_on_one, model_folder, tmp_path):
    def act():
        out, rows = tmp_path / "result.json", tmp_path / "rows.jsonl"
        how = dict(limit=5, samples=3, max_new_tokens=6, template="plain", temperature=1.0)
        evaluate(model=model_folder, out=str(out), completions=str(rows), batch_rows=9, **how)
        return json.loads(out.read_text()), read(rows)

    (result, rows), (result_of_one, rows_of_one) = on_all_and_on_one(act)
    for row, row_of_one in zip(rows, rows_of_one, strict=True):
        assert row.pop("logprob") == pytest.approx(row_of_one.pop("logprob"), abs=1e-4)
        assert row == row_of_one
    del result["completions"], result_of_one["completions"]
    assert result == result_of_one


def test_completions_are_the_same(on_all_and_on_one, model_folder, tmp_path):
    prompts, out = write(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "out.jsonl"

    def act():
        how = dict(temperature=1.0, max_new_tokens=8)
        generate(model=model_folder, prompts=prompts, out=str(out), **how)
        return out.read_bytes()

    on_all, on_one = on_all_and_on_one(act)
    assert on_all == on_one


def test_scores_are_the_same_but_for_rounding(on_all_and_on_one, model_folder, tmp_path):
    data, out = write(tmp_path / "data.jsonl", SCORED), tmp_path / "out.jsonl"

    def act():
        logprobs(model=model_folder, data=data, out=str(out), batch_rows=8)
        return read(out)

    for row, row_of_one in zip(*on_all_and_on_one(act), strict=True):
        assert row["token_ids"] == row_of_one["token_ids"]
        np.testing.assert_allclose(row["logprobs"], row_of_one["logprobs"], atol=1e-5)
