"""`rlft evaluate` of instruction following: answers compared by a judge, or checked by rules."""

import dataclasses
import json

import pytest

from rlft_jax.commands import evaluate_ifeval as ifeval_command
from rlft_jax.commands import evaluate_instructions as instructions_command
from rlft_jax.commands.evaluate_ifeval import evaluate_ifeval
from rlft_jax.commands.evaluate_instructions import evaluate_instructions
from rlft_jax.data.formatter_file import save_formatter
from rlft_jax.data.formatting import Formatter
from rlft_jax.models import reward
from tests.judges.conftest import Server, server
from tests.models.qwen2_models import TINY

__all__ = ["Server", "server"]
ROWS = [
    {"instruction": "Say hello.", "input": "", "output": "Hello."},
    {"prompt": "What is two plus two?", "completion": "Four, of course."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi!"}]},
]


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory, tokenizer) -> str:
    """A random Qwen2 with a scalar head."""
    folder = tmp_path_factory.mktemp("judge")
    architecture = dataclasses.replace(
        TINY, vocabulary=tokenizer.vocab_size, layers=1, max_positions=512
    )
    params = reward.fresh(architecture, seed=1)
    reward.save(folder, params, architecture, pad_id=tokenizer.pad_id)
    tokenizer.save(folder)
    save_formatter(Formatter(tokenizer, "plain", 256), folder)
    return str(folder)


@pytest.fixture
def compare(tmp_path, model_folder):
    def compare(**flags):
        data, out = tmp_path / "rows.jsonl", tmp_path / "out.json"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        flags = {"model": model_folder, "opponent": "reference", "max_new_tokens": 6, **flags}
        flags |= {"completions": str(tmp_path / "said.jsonl")}
        evaluate_instructions(task="instructions", data=str(data), out=str(out), **flags)
        said = [json.loads(x) for x in (tmp_path / "said.jsonl").read_text().splitlines()]
        return json.loads(out.read_text()), said

    return compare


def test_a_reward_model_judges_answers_against_those_of_the_data(compare, judge_folder, capsys):
    result, said = compare(judge=judge_folder)
    assert [row["opponent"] for row in said] == ["Hello.", "Four, of course.", "Hi!"]
    wins = sum(row["score"] > row["opponent_score"] for row in said)
    assert result["win_rate"]["value"] == pytest.approx(wins / 3)
    assert result["spec"]["opponent"] == "reference"
    assert said[0]["prompt"] == [{"role": "user", "content": "Say hello."}]
    assert "win rate at equal length" in capsys.readouterr().out


def test_a_model_ties_with_itself_and_with_its_own_answers(compare, judge_folder, model_folder):
    result, said = compare(judge=judge_folder, opponent=model_folder)
    assert result["win_rate"]["value"] == 0.5
    assert result["ties"] == 3
    assert all(row["completion"] == row["opponent"] for row in said)


def test_an_endpoint_judges_both_orders_and_is_asked_once(compare, server, tmp_path):
    answers = str(tmp_path / "answers.jsonl")
    flags = dict(judge="tiny", judge_url=server.url, judge_answers=answers)
    result, _ = compare(**flags)
    asked = len(server.requests)
    assert asked == 6
    assert compare(**flags)[0]["win_rate"] == result["win_rate"]
    assert len(server.requests) == asked


REFUSED = {
    "fewer completions than prompts": (
        dict(opponent="few.jsonl"),
        r"--opponent=.*few.jsonl has 1 completions for 3 prompts",
    ),
    "an endpoint's settings without one": (
        dict(judge_key_variable="KEY"),
        r"have no effect without --judge_url",
    ),
    "a policy as the judge": (dict(judge="policy"), r"is a policy .* gives texts no score"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused(
    compare, judge_folder, model_folder, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.jsonl").write_text('{"completion": "one"}\n')
    flags = {"judge": judge_folder, **flags}
    if flags["judge"] == "policy":
        flags["judge"] = model_folder
    with pytest.raises(ValueError, match=message):
        compare(**flags)
    assert not (tmp_path / "out.json").exists()


def test_instructions_are_checked_by_their_rules(model_folder, tmp_path, capsys):
    rows = [
        {"prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        {
            "prompt": "A hundred words.",
            "instruction_id_list": ["length_constraints:number_words"],
            "kwargs": [{"relation": "at least", "num_words": 100}],
        },
    ]
    data = tmp_path / "ifeval.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, said = tmp_path / "out.json", tmp_path / "said.jsonl"
    evaluate_ifeval(
        task="ifeval",
        model=model_folder,
        data=str(data),
        max_new_tokens=8,
        out=str(out),
        completions=str(said),
    )
    result = json.loads(out.read_text())
    texts = [json.loads(line)["completion"] for line in said.read_text().splitlines()]
    followed = int("," not in texts[0])
    assert result["prompt_level"]["strict"]["value"] == followed / 2
    assert "strict" in capsys.readouterr().out


def test_the_type_of_the_cache_reaches_the_sampler(
    compare, judge_folder, model_folder, monkeypatch
):
    def settings(**how):
        raise KeyError(how["cache_dtype"])

    for module in (ifeval_command, instructions_command):
        monkeypatch.setattr(module, "SamplingSettings", settings)
    with pytest.raises(KeyError, match="int8"):
        compare(judge=judge_folder, cache_dtype="int8")
    with pytest.raises(KeyError, match="int8"):
        evaluate_ifeval(task="ifeval", model=model_folder, data="-", cache_dtype="int8")
