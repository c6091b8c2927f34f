"""Strict and loose verdicts, grades and scores of IFEval."""

import pytest

from rlft_jax.tasks import ifeval
from rlft_jax.tasks.ifeval import variants, verdict

ROW = {
    "key": 7,
    "prompt": "Answer in quotation marks, without commas, in three words or more.",
    "instruction_id_list": [
        "startend:quotation",
        "punctuation:no_comma",
        "length_constraints:number_words",
    ],
    "kwargs": [{}, {}, {"num_words": 3, "relation": "at least"}],
}
TASK = ifeval.problem(ROW)


def test_loose_forgives_a_frame_of_one_line_on_either_side_and_asterisks():
    judged = ifeval.judged(TASK, 'Sure, here:\n*"It is so"*\nAnything else, sir?')
    assert judged.strict == (False, False, True)
    assert judged.loose == (True, True, True)


def test_instructions_may_be_followed_by_different_variants():
    # In quotation marks without its last line, and three words only with it.
    judged = ifeval.judged(TASK, '"It is"\nyes, yes')
    assert judged.strict == (False, False, True)
    assert judged.loose == (True, True, True)


def test_variants_are_the_eight_of_the_paper():
    assert variants("a\n*b*\nc\nd") == [
        "a\n*b*\nc\nd",
        "*b*\nc\nd",
        "a\n*b*\nc",
        "*b*\nc",
        "a\nb\nc\nd",
        "b\nc\nd",
        "a\nb\nc",
        "b\nc",
    ]
    assert variants("plain") == ["plain", ""]


def test_an_empty_variant_follows_nothing():
    assert verdict(ifeval.instructions_of(ROW), "a, b").loose[1] is False


@pytest.mark.parametrize(
    ("response", "correct", "score", "loose"),
    [
        ('"It is so"', True, 1.0, 1.0),
        ('"It, is so"', False, 2 / 3, 2 / 3),
        ('Sure:\n"It is so"', False, 2 / 3, 1.0),
        ("", False, 0.0, 0.0),
    ],
)
def test_grade_is_for_all_instructions_and_the_score_for_each(response, correct, score, loose):
    grade = ifeval.grade(TASK, response)
    assert (grade.correct, grade.score, grade.answer) == (correct, pytest.approx(score), None)
    assert grade.formatted == bool(response)
    scores = {name: scorer(TASK, response) for name, scorer in ifeval.SCORERS.items()}
    assert scores == pytest.approx({"strict": score, "loose": loose, "all": float(correct)})


def test_templates_pose_the_prompt_and_keep_the_columns():
    chat, plain = (ifeval.problem(ROW, template=name) for name in ("chat", "plain"))
    assert chat.prompt == [{"role": "user", "content": ROW["prompt"]}]
    assert plain.prompt == ROW["prompt"] + "\n\n"
    assert plain.columns["key"] == 7
    assert ifeval.group(plain) == "3 instructions"
