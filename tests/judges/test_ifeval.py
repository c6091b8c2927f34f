import json

import pytest

from rlft_jax.judges import ifeval as figures
from rlft_jax.tasks import ifeval


def posed(*ids):
    return ifeval.problem(
        {"key": 1, "prompt": "Do.", "instruction_id_list": list(ids), "kwargs": [{}] * len(ids)}
    )


PROBLEMS = [
    posed("punctuation:no_comma"),
    posed("punctuation:no_comma", "startend:quotation", "detectable_format:title"),
    posed("startend:quotation"),
    posed("startend:quotation", "punctuation:no_comma"),
]
RESPONSES = ["a, b", '"a <<b>>"', 'Sure:\n"a"', "a b"]


def test_the_four_figures_are_shares_of_prompts_and_of_instructions():
    result = figures.evaluate(PROBLEMS, RESPONSES, seed=0, spec={"model": "m"})
    value = lambda level, way: result[level][way]["value"]
    # Of 4 prompts the second is right, and loosely the third; of 7 instructions 4, and 5.
    assert value("prompt_level", "strict") == 0.25
    assert value("prompt_level", "loose") == 0.5
    assert value("instruction_level", "strict") == pytest.approx(4 / 7)
    assert value("instruction_level", "loose") == pytest.approx(5 / 7)
    for level in ("prompt_level", "instruction_level"):
        for way in figures.WAYS:
            assert result[level][way]["low"] < value(level, way) < result[level][way]["high"]
    assert result["instructions"] == {
        "detectable_format:title": {"count": 1, "strict": 1.0, "loose": 1.0},
        "punctuation:no_comma": {"count": 3, "strict": 2 / 3, "loose": 2 / 3},
        "startend:quotation": {"count": 3, "strict": 1 / 3, "loose": 2 / 3},
    }
    assert [row["strict"] for row in result["verdicts"]] == [
        [False],
        [True, True, True],
        [False],
        [False, True],
    ]
    assert result["spec"].items() >= {"model": "m", "prompts": 4, "task": "ifeval"}.items()
    assert json.loads(json.dumps(result)) == result


def test_an_interval_over_prompts_is_wider_than_one_over_instructions():
    # Ten prompts with five instructions each that stand and fall together.
    problems = [posed(*["punctuation:no_comma"] * 5) for _ in range(10)]
    result = figures.evaluate(problems, ["a", "a, b"] * 5)
    one, five = (result[level]["strict"] for level in ("prompt_level", "instruction_level"))
    assert one == pytest.approx(five)


def test_tables_show_the_figures_and_the_kinds(capsys):
    figures.show(figures.evaluate(PROBLEMS, RESPONSES, spec={"model": "a/model"}))
    shown = " ".join(capsys.readouterr().out.split())
    assert "IFEval: a/model" in shown
    assert "prompts │ 0.250 [" in shown
    assert "instructions │ 0.571 [" in shown
    assert "startend:quotation │ 3 │ 0.333 │ 0.667" in shown


def test_as_many_responses_as_problems_are_needed():
    with pytest.raises(ValueError, match="1 responses do not go with 4 problems"):
        figures.evaluate(PROBLEMS, ["a"])
    with pytest.raises(ValueError, match="0 responses"):
        figures.evaluate([], [])
