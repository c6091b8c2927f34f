import json

import numpy as np
import pytest

from rlft_jax.judges import report
from rlft_jax.judges.pairwise import Judgement, Pair

PAIRS = [Pair(f"prompt {i}", "x" * (10 + i), "y" * (20 - i)) for i in range(8)]
SPEC = {"model": "a/model", "opponent": "references", "judge": "some-judge", "data": "p.jsonl"}


def judged(*preferences):
    return [Judgement(p, p) for p in preferences]


def test_ties_count_half_and_the_figures_say_how_they_were_measured():
    judgements = judged(1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0)
    result = report.by_endpoint(PAIRS, judgements, seed=3, spec=SPEC)
    assert result["win_rate"]["value"] == 0.5
    assert 0 < result["win_rate"]["low"] < 0.5 < result["win_rate"]["high"] < 1
    assert (result["wins"], result["ties"], result["losses"]) == (3, 2, 3)
    assert result["mean_length"]["value"] == 13.5
    assert result["mean_opponent_length"]["value"] == 16.5
    assert result["longer"] == 2 / 8
    spec = result["spec"]
    assert spec.items() >= {**SPEC, "prompts": 8, "seed": 3, "ties": "count half"}.items()
    assert spec["template_version"] == "pairwise-1"
    assert spec["orders"] == "both, averaged"
    assert json.loads(json.dumps(result)) == result


def test_prompts_without_two_verdicts_are_counted_and_never_scored():
    judgements = [
        *judged(1.0, 1.0, 1.0, 0.0),
        Judgement(0.0, None, failures=1),
        Judgement(None, 0.0, unreadable=1),
        Judgement(None, None, failures=1, unreadable=1),
        Judgement(None, None, failures=2),
    ]
    result = report.by_endpoint(PAIRS, judgements)
    assert result["win_rate"]["value"] == 0.75
    assert result["spec"]["prompts"] == 4
    assert result["prompts_without_verdict"] == 4
    assert (result["unanswered_questions"], result["unreadable_answers"]) == (4, 2)
    # Lengths are those of the prompts that count.
    assert result["mean_length"]["value"] == 11.5


def test_an_endpoint_that_said_nothing_readable_is_no_result():
    nothing = [Judgement(None, 1.0, unreadable=1)] * 8
    with pytest.raises(ValueError, match=r"None of 8 prompts .* 0 questions .* 8 answers"):
        report.by_endpoint(PAIRS, nothing)


def test_position_bias_is_reported():
    mixed = judged(1.0, 0.0) + [Judgement(1.0, 0.0)] * 6
    bias = report.by_endpoint(PAIRS, mixed)["position_bias"]
    assert bias == {"flipped": 0.75, "unsteady": 0.75, "first_preferred": 0.875}


def test_a_reward_model_judges_by_the_difference_of_scores():
    scores = np.array([3.0, 1, 1, 1, 0, 0, 2, 2])
    result = report.by_reward_model(PAIRS, scores, np.ones(8), spec=SPEC)
    assert result["win_rate"]["value"] == (3 + 1.5) / 8
    assert result["mean_margin"]["value"] == 0.25
    assert (result["mean_score"], result["mean_opponent_score"]) == (1.25, 1.0)
    assert "position_bias" not in result
    assert "template_version" not in result["spec"]
    assert json.loads(json.dumps(result)) == result


def test_tables_show_both_win_rates_and_what_was_measured(capsys):
    report.show(report.by_endpoint(PAIRS, judged(1, 1, 1, 0.5, 0.5, 0.0, 0.0, 0.0), spec=SPEC))
    shown = " ".join(capsys.readouterr().out.split())
    for said in (
        "a/model against references",
        "win rate │ 0.500 [",
        "win rate at equal length │ 0.",
        "3 / 2 / 3",
        "8 prompts, judge some-judge, template_version pairwise-1, data p.jsonl, seed 0.",
        "Ties count half.",
    ):
        assert said in shown
    report.show(report.by_reward_model(PAIRS, np.ones(8), np.zeros(8)))
    shown = " ".join(capsys.readouterr().out.split())
    assert "difference of scores │ 1.000 [1.000, 1.000]" in shown
    assert "The model against its opponent" in shown
