"""`rlft score` and `rlft evaluate --task=preferences` ask a reward model, as it was trained."""

import json

import numpy as np
import pytest

from rlft_jax import main
from rlft_jax.commands.evaluate import evaluate
from rlft_jax.commands.evaluate_preferences import evaluate_preferences
from rlft_jax.commands.score import score
from rlft_jax.runs import scoring
from rlft_jax.runs.scoring import Scorer, plan_scorer
from tests.tiny_rewards import write_encoder

ROWS = [
    {"prompt": "two and two", "completion": "four", "id": 0},
    {"messages": [{"role": "user", "content": "who"}], "completion": "me, of course"},
    {"prompt": "a long question, " * 9, "completion": "yes"},
    *({"prompt": "letters", "completion": "abcdefg"[: n % 7]} for n in range(14)),
]
PAIRS = [
    {"prompt": f"question {n // 2}", "chosen": "abc " * (n % 5), "rejected": "xyz " * (n % 3 + 1)}
    for n in range(12)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_encoder(tmp_path_factory.mktemp("reward"), preset="pair", tokens=48))


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(tmp_path, model):
    def run(rows=ROWS, **flags):
        data, out = write(tmp_path / "data.jsonl", rows), tmp_path / "out.jsonl"
        score(**{"model": model, "data": data, "out": str(out), **flags})
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


def test_rows_come_back_in_order_with_the_score_of_each_alone(run, model, capsys):
    written = run(batch_rows=8)
    assert "1 of 17 prompts lose their start to fit 48 tokens" in capsys.readouterr().err
    scorer = plan_scorer(model, rows=8)
    scores = scorer.scores(scorer.load())
    for row, given in list(zip(written, ROWS, strict=True))[:5]:
        assert row.items() >= given.items()
        prompt = given["prompt"] if "prompt" in given else given["messages"]
        (alone,) = scores(scorer.formatter.texts([(prompt, given["completion"])]))
        assert row["score"] == pytest.approx(float(alone), abs=1e-5)
    assert np.std([row["score"] for row in written]) > 0.01


def test_scores_are_the_same_on_one_device(run, monkeypatch, one_device):
    on_eight = run(batch_rows=32)
    monkeypatch.setattr(scoring, "make_mesh", lambda **_: one_device)
    on_one = run(batch_rows=8)
    np.testing.assert_allclose(
        [row["score"] for row in on_eight], [row["score"] for row in on_one], atol=1e-5
    )


def test_what_cannot_be_scored_is_refused_before_weights_are_loaded(run, monkeypatch, model_folder):
    monkeypatch.setattr(Scorer, "load", lambda self: pytest.fail("loaded"))
    with pytest.raises(ValueError, match='line 2 has no "completion"'):
        run([ROWS[0], {"prompt": "x"}])
    with pytest.raises(ValueError, match=r"line 2: 54 tokens do not fit into the 48 .* even with"):
        run([ROWS[0], {"prompt": "", "completion": "abc " * 17}])
    with pytest.raises(ValueError, match=r"line 1: .*messages"):
        run([{"messages": [], "completion": "x"}])
    with pytest.raises(ValueError, match="--batch_rows=0"):
        run(batch_rows=0)
    with pytest.raises(ValueError, match="tokens was 48 in training, and is 32"):
        run(tokens=32)
    with pytest.raises(ValueError, match=r"is a policy \(Qwen2ForCausalLM\)"):
        run(model=model_folder)


def test_preferences_are_measured_beside_the_rule_of_length(model, tmp_path, capsys):
    data, out = write(tmp_path / "pairs.jsonl", PAIRS), tmp_path / "out.json"
    words = [f"--model={model}", f"--data={data}", f"--out={out}", "--batch_rows=16"]
    assert main.main(["evaluate", "--task=preferences", *words]) == 0
    result = json.loads(out.read_text())
    pairs = [[(row["prompt"], row[side]) for side in ("chosen", "rejected")] for row in PAIRS]
    scorer = plan_scorer(model, rows=8)
    texts = scorer.formatter.texts([one for pair in pairs for one in pair])
    scores = scorer.scores(scorer.load())(texts).reshape(-1, 2)
    accuracy = ((1 + np.sign(scores[:, 0] - scores[:, 1])) / 2).mean()
    assert result["accuracy"]["value"] == pytest.approx(accuracy)
    lengths = [len(a["chosen"]) - len(a["rejected"]) for a in PAIRS]
    longer = ((1 + np.sign(lengths)) / 2).mean()
    assert result["longer_wins"]["value"] == pytest.approx(longer)
    assert (result["pairs"], result["prompts"]) == (12, 6)
    assert result["spec"]["formatter"]["preset"] == "pair"
    assert "preferences: " in capsys.readouterr().out


def test_preferences_have_flags_of_their_own(model, capsys):
    assert main.main(["help", "evaluate", "--task=preferences"]) == 0
    told = capsys.readouterr().out
    assert "--source_column" in told
    assert "--samples" not in told
    assert main.main(["evaluate", "--task=preferences", "--samples=3"]) == 2
    assert "--samples does not exist" in capsys.readouterr().err
    assert main.main(["evaluate", "--task", "chess", "--model=x"]) == 2
    assert "preferences" in capsys.readouterr().err.partition("Choose one of")[2]


def test_a_policy_has_no_preferences_and_no_pairs_no_figures(model, model_folder, tmp_path):
    data = write(tmp_path / "pairs.jsonl", PAIRS)
    measure = lambda **flags: evaluate_preferences(
        **{"task": "preferences", "model": model, "data": data, **flags}
    )
    with pytest.raises(ValueError, match=r"is a policy .* gives texts no score"):
        measure(model=model_folder)
    equal = write(tmp_path / "equal.jsonl", [{**PAIRS[0], "chosen": "xyz "}])
    with pytest.raises(ValueError, match="Nothing is left of the 1 pairs"):
        measure(data=equal)


def test_the_best_of_n_is_chosen_by_a_reward_model_too(model, model_folder, tmp_path, capsys):
    out, rows = tmp_path / "result.json", tmp_path / "rows.jsonl"
    small = dict(limit=3, samples=2, max_new_tokens=4, template="plain", batch_rows=16)
    files = dict(out=str(out), completions=str(rows))
    evaluate(model=model_folder, reward_model=model, **files, **small)
    result = json.loads(out.read_text())
    assert result["best_of_n"].keys() == {"verifier", "likelihood", "majority", "reward_model"}
    assert result["spec"]["reward_model"] == model
    row = json.loads(rows.read_text().splitlines()[0])
    scorer = plan_scorer(model, rows=8)
    (alone,) = scorer.scores(scorer.load())(
        scorer.formatter.texts([(row["prompt"], row["completion"])])
    )
    assert row["reward"] == pytest.approx(float(alone), abs=1e-5)
    assert "best of n: reward model" in capsys.readouterr().out
