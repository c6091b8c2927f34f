"""`rlft generate` continues prompts, in order, or refuses them before it loads anything."""

import json

import pytest

from rlft_jax.commands import generate as command
from rlft_jax.commands.generate import generate

ROWS = [
    {"prompt": "Hello", "id": 1},
    {"messages": [{"role": "user", "content": "Who are you?"}], "id": 2},
    {"prompt": "A much longer prompt than the others", "id": 3},
]


@pytest.fixture
def run(tmp_path, model_folder):
    def run(rows=ROWS, **flags):
        prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = {"model": model_folder, "max_new_tokens": 5, **flags}
        generate(prompts=str(prompts), out=str(out), **flags)
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


def test_rows_come_back_in_order_with_completion_and_ids(run, tokenizer):
    written = run()
    for row, given in zip(written, ROWS, strict=True):
        assert row.items() >= given.items()
        assert 1 <= len(row["token_ids"]) <= 5
        decoded = tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert row["completion"] == decoded


def test_a_completion_depends_on_its_place_and_the_seed_and_not_on_other_lines(run):
    rows = [{"prompt": "Hello"}, {"prompt": "Good bye"}]
    first, second = run(rows, temperature=1.0)
    assert run(rows[:1], temperature=1.0) == [first]
    assert run(rows[1:], temperature=1.0) != [second]
    assert run(rows[:1], temperature=1.0, seed=1) != [first]


def test_a_chat_is_put_through_the_template(run, tokenizer):
    text = tokenizer.apply_template(ROWS[1]["messages"], add_generation_prompt=True)
    as_chat, as_text = run([ROWS[1], {"prompt": text}])
    assert as_chat["token_ids"] == as_text["token_ids"]


def test_bad_lines_and_settings_are_refused_before_the_model_is_looked_for(run):
    with pytest.raises(ValueError, match="line 2"):
        run([ROWS[0], {"promt": "x"}], model="nowhere")
    with pytest.raises(ValueError, match="top_p = 2"):
        run(top_p=2.0, temperature=1.0, model="nowhere")


def test_what_cannot_be_generated_leaves_the_old_output(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_replicas", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "out.jsonl").write_text("old")
    with pytest.raises(ValueError, match="line 3: 36 tokens of prompt and 500 after it"):
        run(max_new_tokens=500)
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "prompts.jsonl"}


def test_the_type_of_the_cache_reaches_the_sampler(run, monkeypatch):
    def settings(**how):
        raise KeyError(how["cache_dtype"])

    monkeypatch.setattr(command, "SamplingSettings", settings)
    with pytest.raises(KeyError, match="int8"):
        run(cache_dtype="int8")
