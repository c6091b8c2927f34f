"""`rlft logprobs` scores what was written, as the full forward pass does."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rlft_jax.commands import logprobs as command
from rlft_jax.commands.logprobs import logprobs
from rlft_jax.runs.loading import load

ROWS = [
    {"prompt": "2 + 2 = ", "completion": "4<end>", "id": 0},
    {"prompt": "A longer one, ", "completion": "followed by much more text"},
    {"messages": [{"role": "user", "content": "Hi"}], "completion": "Hello"},
    {"prompt": "nothing follows", "completion": ""},
]


@pytest.fixture
def run(tmp_path, model_folder):
    def run(rows=ROWS, **flags):
        data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        logprobs(model=model_folder, data=str(data), out=str(out), **flags)
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


@pytest.fixture
def predicted(model_folder):
    """Log-probabilities after each of some tokens, by the full forward pass."""
    policy = load(model_folder)
    model = nnx.merge(policy.graph, policy.params)

    def predicted(ids):
        return jax.nn.log_softmax(model.unembed(model.hidden(jnp.array([ids])))[0])

    return predicted


def test_logprobs_are_those_of_one_sequence_at_a_time(run, tokenizer, predicted):
    for row, given in zip(run(), ROWS, strict=True):
        assert row.items() >= given.items()
        if "messages" in row:
            text = tokenizer.apply_template(row["messages"], add_generation_prompt=True)
        else:
            text = row["prompt"]
        prompt, completion = tokenizer.encode(text), tokenizer.encode(row["completion"])
        logp_TV = predicted([*prompt, *completion])
        expected = [float(logp_TV[len(prompt) - 1 + i, t]) for i, t in enumerate(completion)]
        assert row["token_ids"] == completion
        np.testing.assert_allclose(row["logprobs"], expected, atol=2e-5)


def test_the_token_that_ends_a_text_is_scored_where_it_is_written_and_never_added(run, tokenizer):
    ended, _, open_ended, nothing = run()
    assert ended["token_ids"][-1] == tokenizer.id_of("<end>")
    assert len(open_ended["token_ids"]) == len("Hello")
    assert nothing["logprobs"] == nothing["token_ids"] == []


def test_the_size_of_batches_changes_no_more_than_rounding(run):
    for one, many in zip(run(batch_rows=1), run(batch_rows=4), strict=True):
        np.testing.assert_allclose(one["logprobs"], many["logprobs"], atol=2e-5)


def test_mistakes_are_refused_before_weights_are_loaded(run, monkeypatch):
    monkeypatch.setattr(command, "load_replicas", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match='line 1 has no "completion"'):
        run([{"prompt": "x"}])
    with pytest.raises(ValueError, match="--batch_rows=0"):
        run(batch_rows=0)
