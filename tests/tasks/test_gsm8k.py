import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_jax.tasks.gsm8k import TEMPLATES, demonstration, final_number, grade, group, problem

ROW = {
    "question": "Natalia sold clips to 48 friends in April, and half as many in May. How many?",
    "answer": "In May: 48/2 = <<48/2=24>>24 clips.\nIn all: 48+24 = <<48+24=72>>72.\n#### 72",
}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # the marker of the data set
        ("so 5 and 6\n#### 18", 18),
        ("####18", 18),
        ("#### 18.", 18),
        ("#### $1,234.50 in total", Fraction(2469, 2)),
        ("#### -5 dollars", -5),
        ("#### −5", -5),
        ("#### .5", Fraction(1, 2)),
        ("#### **18**", 18),
        ("#### 18\n#### 20", 20),
        ("#### 18\nI am sure of 100%? No: 99.", 18),
        # boxed
        (r"\boxed{18}", 18),
        (r"so $\boxed{x = 18 \text{ dollars}}$", 18),
        (r"\boxed{\$1{,}200.50}", Fraction(2401, 2)),
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\boxed{50\%} of the 80", 50),
        (r"\boxed{5} or rather \boxed{6}", 6),
        (r"#### 5, that is \boxed{6}", 6),
        (r"\boxed{6}" + "\n#### 5", 5),
        # a sentence
        ("The answer is 18.", 18),
        ("The answer is 18. She has 5 left.", 18),
        ("**Answer:** $42 per week for 3 weeks", 42),
        ("Final answer: 3/4 of a cup", Fraction(3, 4)),
        ("The answer is 5 + 3 = 8 apples", 8),
        # nothing but an end
        ("so she needs 5 * 3 = 15 eggs", 15),
        ("She pays $2,000,000", 2_000_000),
        ("A: 26", 26),
        ("it costs -$3", -3),
        ("it costs $-3.20", Fraction(-16, 5)),
        ("from 3-5", 5),
        ("5 - 3", 3),
        ("1, 2, 3", 3),
        ("12.0 kg", 12),
        # a heading is no answer
        ("#### 1. Count the eggs\nThere are 7", 7),
        ("#### Step 2: add\n3 + 4 = 7", 7),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no number",
        "####",
        r"\boxed{5, 6}",
        r"\boxed{}",
        r"7 and \boxed{unknown}",
        r"\boxed{18",
        "3/0",
        "1" * 41,
        "٣",
    ],
)
def test_no_final_number(text):
    assert final_number(text) is None


def test_comparison_is_exact_and_outcome_and_format_are_apart():
    posed = problem(ROW)
    right, wrong, none = (grade(posed, text) for text in ("#### 72.00", "#### 72.01", "many"))
    assert (right.correct, right.formatted, right.score, right.answer) == (True, True, 1.0, "72")
    assert (wrong.correct, wrong.formatted, wrong.score) == (False, True, 0.0)
    assert wrong.answer == "7201/100"
    assert (none.correct, none.formatted, none.score, none.answer) == (False, False, 0.0, None)


def test_equal_answers_vote_together():
    votes = {grade(problem(ROW), text).answer for text in ("#### 1,200", r"\boxed{1200.0}")}
    assert votes == {"1200"}


def test_demonstration_drops_the_calculator_annotations_only():
    assert demonstration(ROW) == ("In May: 48/2 = 24 clips.\nIn all: 48+24 = 72.\n#### 72")


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_poses_the_question_and_keeps_the_columns(template):
    posed = problem(ROW | {"id": 7}, template=template)
    text = posed.prompt if isinstance(posed.prompt, str) else posed.prompt[0]["content"]
    assert ROW["question"] in text
    assert posed.columns["id"] == 7
    assert grade(posed, demonstration(ROW, template=template)).correct


def test_a_row_that_is_no_problem_is_refused():
    with pytest.raises(ValueError, match="lacks answer: it has question"):
        problem({"question": "How many?"})
    with pytest.raises(ValueError, match="no number to compare with: 'many'"):
        problem({"question": "How many?", "answer": "many"})
    with pytest.raises(ValueError, match=r"'caht'\. Choose one of chat, plain"):
        problem(ROW, template="caht")


def test_group_is_the_number_of_calculations():
    assert group(problem(ROW)) == "2 steps"
    assert group(problem(ROW | {"answer": "2+2 = <<2+2=4>>4\n#### 4"})) == "1 step"
    assert group(problem(ROW | {"answer": "#### 4"})) == "all"


@pytest.mark.parametrize(
    "text",
    [
        "#### " * 20_000,
        "answer is " * 10_000,
        "answer" + " " * 100_000,
        r"\boxed{" * 14_000,
        r"\text{" * 16_000,
        r"\frac{1}" * 12_000,
        "1" * 100_000,
        "123," * 25_000,
        "1/" * 50_000,
        "-" * 100_000,
        "$" * 100_000,
        "\x00\ud800" * 50_000,
    ],
)
def test_hostile_responses_take_linear_time(text):
    start = time.perf_counter()
    grade(problem(ROW), text)
    assert time.perf_counter() - start < 0.2 + len(text) / 1024 * 1e-3  # quadratic: minutes


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(st.sampled_from("0123456789.,/-−$#%{}\\ \nboxedanswer:=*"), max_size=80))
def test_grading_never_raises(text):
    assert grade(problem(ROW), text).score in (0.0, 1.0)


def test_every_gold_answer_grades_itself_correct(shared_rows):
    for row in shared_rows("gsm8k/test_public.jsonl.gz"):
        posed = problem(row)
        assert grade(posed, row["answer"]).correct
        assert grade(posed, demonstration(row)).correct


def test_labels_of_real_model_solutions_are_reproduced(shared_rows):
    rows = shared_rows("gsm8k/model_solutions_public.jsonl.gz")
    models = [
        f"{size}_{kind}" for size in ("6b", "175b") for kind in ("finetuning", "verification")
    ]
    agree = [
        grade(problem({**row, "answer": row["ground_truth"]}), row[model]["solution"]).correct
        == row[model]["is_correct"]
        for row in rows
        for model in models
    ]
    assert sum(agree) == len(agree) == 2640
