"""Accuracy, calibration and lengths of reward models, by hand and on known cases."""

import json
import math

import numpy as np
import pytest

from rlft_jax.data.readers import read_rows
from rlft_jax.reward_evaluation import calibration, evaluate, length_correlation, show


def pairs(scores, lengths=None, **settings) -> dict:
    scores = np.array(scores, float)
    lengths = np.ones(scores.shape, int) if lengths is None else np.array(lengths)
    settings = {"prompts": [str(i) for i in range(len(scores))], **settings}
    return evaluate(scores, lengths, settings.pop("prompts"), **settings)


def test_accuracy_stands_beside_the_longer_answers():
    found = pairs(
        [[1, 0], [2, 1], [0, 1], [5, 5]],
        [[3, 9], [9, 3], [9, 3], [4, 4]],
    )
    assert found["accuracy"]["value"] == 0.625  # a tie counts half
    assert found["longer_wins"]["value"] == 0.625
    assert found["above_longer"]["value"] == 0
    assert found["equal_scores"] == 0.25
    assert found["margin"]["value"] == 0.25
    losses = [math.log1p(math.exp(-d)) for d in (1, 1, -1, 0)]
    assert found["log_loss"]["value"] == pytest.approx(np.mean(losses))
    assert found["spec"]["pairs"] == 4


def test_a_model_that_counts_letters_is_the_baseline():
    lengths = np.random.default_rng(0).integers(1, 1000, (200, 2))
    found = pairs(lengths / 128, lengths)
    assert found["accuracy"] == found["longer_wins"]
    assert set(found["above_longer"].values()) == {0.0}
    assert found["length_correlation"]["pearson"] == pytest.approx(1)
    assert found["length_correlation"]["spearman_within_pairs"] == pytest.approx(1)


def test_the_interval_is_over_prompts():
    # 100 prompts of ten pairs each, all right or all wrong: 100 things are known, not 1,000.
    right = np.repeat(np.arange(100) % 2, 10)
    scores = np.stack([right, 1 - right], -1)
    same = pairs(scores, prompts=[str(i // 10) for i in range(1000)])
    apart = pairs(scores)
    width = lambda found: found["accuracy"]["high"] - found["accuracy"]["low"]
    assert same["accuracy"]["value"] == apart["accuracy"]["value"] == 0.5
    assert width(same) == pytest.approx(math.sqrt(10) * width(apart), rel=0.05)
    assert (same["prompts"], apart["prompts"]) == (100, 1000)


def test_pairs_count_alike_whatever_their_prompt_has():
    found = pairs([[1, 0]] * 3 + [[0, 1]], prompts=["a", "a", "a", "b"])
    assert found["accuracy"]["value"] == 0.75


def test_every_source_and_length_has_its_own_figures():
    found = pairs(
        [[1, 0], [0, 1], [1, 0], [1, 0]],
        [[10, 100], [60, 100], [100, 100], [200, 100]],
        sources=["a", "a", "b", "b"],
    )
    by = lambda groups: {name: (g["pairs"], g["accuracy"]["value"]) for name, g in groups.items()}
    assert by(found["sources"]) == {"a": (2, 0.5), "b": (2, 1.0)}
    assert found["sources"]["b"]["longer_wins"]["value"] == 0.75
    assert by(found["length_ratios"]) == {
        "under 1/2": (1, 1.0),
        "1/2 to 9/10": (1, 0.0),
        "9/10 to 10/9": (1, 1.0),
        "2 and over": (1, 1.0),
    }


def test_the_calibration_error_is_the_distance_of_confidence_and_accuracy():
    # Three of four right at confidence 0.75 is calibrated; none of two right at 0.9 is not.
    logit = lambda p: math.log(p / (1 - p))
    sure = [logit(0.7501)] * 3 + [-logit(0.7501)]
    assert calibration(np.array(sure))["error"] == pytest.approx(0.0001, abs=1e-9)
    found = calibration(np.array([*sure, -logit(0.91), -logit(0.91)]), bins=5)
    assert found["error"] == pytest.approx((4 * 0.0001 + 2 * 0.91) / 6)
    assert [(round(p["from"], 3), p["pairs"], p["accuracy"]) for p in found["curve"]] == [
        (0.7, 4, 0.75),
        (0.9, 2, 0.0),
    ]


def test_scores_drawn_from_bradley_terry_are_calibrated():
    generator = np.random.default_rng(0)
    differences = generator.normal(scale=2, size=20_000)
    wins = generator.random(20_000) < 1 / (1 + np.exp(-differences))
    signed = np.where(wins, differences, -differences)
    assert calibration(signed)["error"] < 0.015
    assert calibration(3 * signed)["error"] > 0.1  # too sure
    assert calibration(0.2 * signed)["error"] > 0.1  # not sure enough


def test_differences_that_sigmoid_cannot_tell_from_1_stay_in_the_last_bin():
    (point,) = calibration(np.array([800.0, -800.0]))["curve"]
    assert (point["to"], point["confidence"], point["accuracy"]) == (1.0, 1.0, 0.5)


def test_correlations_by_hand():
    found = length_correlation(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1, 2], [4, 3]]))
    assert found["spearman"] == pytest.approx(0.8)
    assert found["pearson"] == pytest.approx(0.8)
    assert found["pearson_within_pairs"] is None  # the differences of scores do not vary
    ties = length_correlation(np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[1, 2], [3, 4]]))
    assert ties["spearman"] == pytest.approx(2 / math.sqrt(5))


def test_the_result_is_json_and_can_be_shown(capsys):
    found = pairs(
        [[1, 0], [0, 1]], [[3, 9], [9, 3]], sources=["a", "b"], spec={"model": "m", "data": "d"}
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    show(found)
    printed = capsys.readouterr().out
    for text in ("preferences: m", "longer answer wins", "2 pairs of 2 prompts (d)", "0.500 ["):
        assert text in printed


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        evaluate(np.zeros((0, 2)), np.zeros((0, 2), int), [])
    with pytest.raises(ValueError, match="1 of 2 pairs have a score that is not finite"):
        pairs([[1, math.nan], [0, 1]])


def test_real_pairs_are_won_by_the_longer_answer_as_often_as_was_counted(shared_data):
    # Numbers of the README of the data.
    for name, share in (("llmbar", 0.29), ("pandalm_human", 0.63), ("auto_j_human", 0.71)):
        rows = read_rows(shared_data / "preference" / f"{name}.jsonl.gz")
        lengths = np.array([[len(row["chosen"]), len(row["rejected"])] for row in rows])
        found = pairs(np.zeros(lengths.shape), lengths)
        strictly = float((lengths[:, 0] > lengths[:, 1]).mean())
        assert round(strictly, 2) == share
        ties = float((lengths[:, 0] == lengths[:, 1]).mean())
        assert found["longer_wins"]["value"] == pytest.approx(strictly + ties / 2)
        assert found["accuracy"]["value"] == 0.5
