"""An evaluation counts what it says it counts, on completions written by hand."""

import json

import numpy as np
import pytest

from rlft_jax import evaluate as evaluation
from rlft_jax.evaluate import evaluate
from rlft_jax.sampling.transcripts import Completion
from rlft_jax.tasks import countdown

RIGHT = "<answer> 1 + 2 + 3 </answer>"
WRONG = "<answer> 1 * 2 + 3 </answer>"
SILENT = "I don't know"
CUT_OFF = "Let me think"
ROWS = [{"nums": [1, 2, 3], "target": 6}, {"nums": [3, 2, 1], "target": 6}]
FOUR = {"nums": [1, 2, 3, 4], "target": 10}


def policy(texts):
    """A policy that says these texts, problem by problem; ids are code points."""

    def sample(problems, first):
        groups = texts[first : first + len(problems)]
        return [[completion(text) for text in group] for group in groups]

    def completion(text):
        tokens = np.array([ord(c) for c in text], np.int32)
        return Completion(tokens, np.full(len(text), -1.0, np.float32), text != CUT_OFF)

    return sample


def decode(ids):
    return "".join(map(chr, ids))


def evaluated(texts, rows=ROWS, **settings):
    problems = [countdown.problem(row, template="plain") for row in rows]
    settings = {"task": "countdown", "decode": decode, "samples": len(texts[0]), **settings}
    return evaluate(problems, sample=policy(texts), **settings)


TEXTS = [[RIGHT, WRONG, SILENT, CUT_OFF], [WRONG, WRONG, WRONG, SILENT]]


def test_figures_are_those_counted_by_hand():
    result = evaluated(TEXTS)
    value = lambda figure: figure["value"]
    assert {k: value(v) for k, v in result["pass_at_k"].items()} == pytest.approx(
        {"1": 0.125, "2": 0.25, "4": 0.5}
    )
    assert value(result["mean_score"]) == pytest.approx((1 + 4 * 0.1) / 8)
    assert value(result["formatted"]) == 5 / 8
    assert value(result["parse_failures"]) == 3 / 8
    assert value(result["truncated"]) == 1 / 8
    lengths = [len(text) for group in TEXTS for text in group]
    assert value(result["mean_length"]) == pytest.approx(np.mean(lengths))


def test_the_likelihood_is_that_of_the_whole_completion():
    # The shortest completion is the likeliest at -1 nat a token: never the right one.
    result = evaluated([[RIGHT, SILENT], [RIGHT, RIGHT]])
    assert result["best_of_n"]["likelihood"]["2"]["value"] == 0.5
    assert result["best_of_n"]["verifier"]["2"]["value"] == 1.0


def test_the_majority_votes_by_the_canonical_answer():
    other = "<answer> 3 + (2 + 1) </answer>"
    assert countdown.grade(countdown.problem(ROWS[0]), other).correct
    texts = [[RIGHT, other, WRONG, SILENT]] * 2
    voted = evaluated(texts)["best_of_n"]["majority"]["4"]["value"]
    answers = {countdown.grade(countdown.problem(ROWS[0]), t).answer for t in (RIGHT, other)}
    assert len(answers) == 1
    assert voted == 1.0


def test_a_reward_model_chooses_one_of_n():
    longest = lambda problems, responses: [len(response) for response in responses]
    result = evaluated([[RIGHT, SILENT], [WRONG, SILENT]], reward=longest, chunk=1)
    assert result["best_of_n"]["reward_model"]["2"]["value"] == 0.5
    assert result["best_of_n"]["likelihood"]["2"]["value"] == 0.0
    assert result["completions"][0]["reward"] == len(RIGHT)
    assert "reward_model" not in evaluated(TEXTS)["best_of_n"]


def test_accuracy_is_given_by_kind_of_problem():
    texts = [[RIGHT, RIGHT], [WRONG, WRONG], [SILENT, "<answer> 1+2+3+4 </answer>"]]
    groups = evaluated(texts, [*ROWS, FOUR])["groups"]
    assert list(groups) == ["3 numbers", "4 numbers"]
    assert groups["3 numbers"]["problems"] == 2
    assert groups["3 numbers"]["pass_at_k"]["2"]["value"] == 0.5
    assert groups["4 numbers"]["pass_at_k"]["1"]["value"] == 0.5
    assert groups["4 numbers"]["pass_at_k"]["2"]["value"] == 1.0


def test_every_figure_has_its_interval_and_the_spec_says_what_was_measured():
    result = evaluated(TEXTS, spec={"temperature": 0.6, "model": "m"}, seed=3)
    figures = [
        *result["pass_at_k"].values(),
        *(f for kind in result["best_of_n"].values() for f in kind.values()),
        *(result[k] for k in ("mean_score", "formatted", "truncated", "mean_length")),
    ]
    assert all(f["low"] <= f["value"] <= f["high"] for f in figures)
    spec = result["spec"]
    assert spec["temperature"] == 0.6
    assert (spec["problems"], spec["samples"], spec["seed"]) == (2, 4, 3)
    assert spec["scorer"] == "strict"
    assert "bootstrap over problems" in spec["intervals"]
    assert "jax" in spec["versions"]


def test_the_result_is_json_and_never_calls_a_score_accuracy():
    text = json.dumps(evaluated(TEXTS), allow_nan=False)
    assert "accuracy" not in text


def test_the_size_of_chunks_changes_nothing():
    texts = [[RIGHT, WRONG], [SILENT, RIGHT], [CUT_OFF, WRONG]]
    rows = [*ROWS, {"nums": [3, 1, 2], "target": 6}]
    assert evaluated(texts, rows, chunk=1) == evaluated(texts, rows, chunk=64)


def test_the_compat_score_changes_the_mean_score_alone():
    power = "<think>\n<answer> 1 + 2**3 </answer>"
    row = {"nums": [1, 2, 3], "target": 9}
    problem = countdown.problem(row, template="tinyzero")
    run = lambda scorer: evaluate(
        [problem],
        task="countdown",
        sample=policy([[power]]),
        decode=decode,
        samples=1,
        scorer=scorer,
    )
    strict, compat = run("strict"), run("compat")
    assert (strict["mean_score"]["value"], compat["mean_score"]["value"]) == (0.0, 1.0)
    assert strict["pass_at_k"] == compat["pass_at_k"]


def test_completions_are_recorded_in_order_and_the_first_are_shown():
    recorded = []
    result = evaluated(TEXTS, record=recorded.append, shown=1)
    assert [row["completion"] for row in recorded] == [*TEXTS[0], *TEXTS[1]]
    assert [(row["problem"], row["sample"]) for row in recorded[:5]] == [
        *((0, g) for g in range(4)),
        (1, 0),
    ]
    assert [row["correct"] for row in recorded] == [True] + 7 * [False]
    assert [row["is_finished"] for row in recorded] == [True] * 3 + [False] + [True] * 4
    assert result["completions"] == recorded[:1]
    json.dumps(recorded)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "checkers"}, "no task 'checkers'. Choose one of countdown"),
        ({"scorer": "lenient"}, "no countdown scorer 'lenient'. Choose one of strict, compat"),
        ({"rows": []}, "no problems to evaluate"),
    ],
)
def test_mistakes_are_named_before_anything_is_sampled(settings, said):
    with pytest.raises(ValueError, match=said):
        evaluated(TEXTS, **settings)


def test_versions_are_not_made_up():
    assert evaluation.versions()["numpy"] == np.__version__


def test_intervals_are_written_in_brackets():
    third = {"value": 1 / 3, "low": 0, "high": 1}
    assert evaluation.with_interval(third, digits=2) == "0.33 [0.00, 1.00]"
