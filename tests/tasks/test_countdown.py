import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_jax.tasks.arithmetic import parse
from rlft_jax.tasks.countdown import TEMPLATES, demonstration, grade, group, problem
from rlft_jax.tasks.countdown_templates import answer_text
from rlft_jax.tasks.problem import Grade

ROW = {"nums": [3, 5, 8], "target": 16}
PROBLEM = problem(ROW)


def answered(expression):
    return f"some thoughts </think>\n<answer> {expression} </answer>"


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (answered("3 + 5 + 8"), 1.0),
        (answered("(8+5)+3"), 1.0),
        (answered("8--(3+5)"), 1.0),
        (answered("3+5") + answered("3+5+8"), 1.0),  # the last one counts
        (answered("3+5+8") + answered("3+5"), 0.1),
        (answered("3+5+8") + " <answer> 3+5", 1.0),  # the last one that is closed
        (answered("3+5+8") + " </answer>", 1.0),
        ("<answer> what is <answer>3+5+8</answer>", 1.0),
        ("<answer>3+5\n+8</answer>\n", 1.0),
        (answered("3+5+8+3"), 0.1),  # a number reused
        (answered("3+13"), 0.1),
        (answered("8+8"), 0.1),
        (answered("3*5+8"), 0.1),
        (answered("16"), 0.1),
        (answered("8/(5-5)"), 0.1),
        (answered("3+5+8=16"), 0.0),
        (answered("2**3"), 0.0),
        (answered("sixteen"), 0.0),
        (answered(""), 0.0),
        ("<answer>3+5+8", 0.0),
        ("3+5+8</answer>", 0.0),
        ("</answer>3+5+8<answer>", 0.0),
        ("3+5+8", 0.0),
        ("", 0.0),
    ],
)
def test_strict_scores(response, score):
    result = grade(PROBLEM, response)
    assert (result.score, result.correct, result.formatted) == (score, score == 1, score > 0)


@pytest.mark.parametrize(
    ("equation", "nums", "target"),
    [("2**3", [2, 3], 8), ("7//2", [7, 2], 3), ("1.5", [1, 5], 1), ("25*1", [2, 5, 1], 25)],
)
def test_loopholes_of_the_published_scorer_are_closed(equation, nums, target):
    assert not grade(problem({"nums": nums, "target": target}), answered(equation)).correct


def test_equality_is_exact():
    eighths = problem({"nums": [3, 3, 8, 8], "target": 24})
    assert grade(eighths, answered("8/(3-8/3)")).correct
    close = problem({"nums": [100000, 1, 1000000], "target": 100000})
    assert not grade(close, answered("100000+1/1000000")).correct


def test_repeated_numbers_are_counted():
    twice = problem({"nums": [5, 5, 2], "target": 12})
    assert grade(twice, answered("5+5+2")).correct
    assert grade(twice, answered("5*2+2")).score == 0.1


def test_votes_for_one_solution_agree_however_it_is_written():
    votes = {grade(PROBLEM, answered(text)).answer for text in ("3+5+8", "(8 + 3) + 5", "8-(-5-3)")}
    assert len(votes) == 1
    assert grade(PROBLEM, answered("8*(5-3)")).answer not in votes
    assert grade(PROBLEM, "none") == Grade(correct=False, formatted=False, score=0.0, answer=None)


@pytest.mark.parametrize(
    "response",
    [
        "<answer>" * 100_000,
        "</answer>" * 100_000,
        "<answer>" + "(" * 100_000 + "</answer>",
        "<answer>" + "(" * 100_000 + "1" + ")" * 100_000 + "</answer>",
        "<answer>" + "-" * 100_000 + "1</answer>",
        "<answer>" + "9" * 100_000 + "</answer>",
        "<answer>9**9**9**9</answer>",
        "<answer>\x00</answer>",
        "<answer>\ud800\udfff</answer>",
        "<answer>１+２</answer>",
        "<answer>" + "1+" * 1_000_000 + "1</answer>",
        "\x00" * 1_000_000,
    ],
)
def test_hostile_responses_score_nothing_and_cost_nothing(response):
    start = time.perf_counter()
    assert grade(PROBLEM, response).score == 0.0
    assert time.perf_counter() - start < 0.1 + len(response) / 1024 * 1e-3  # 1 ms per KB


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=300), st.booleans())
def test_grading_never_raises(text, tagged):
    result = grade(PROBLEM, answered(text) if tagged else text)
    assert result.score in (0.0, 0.1, 1.0)


def test_tinyzero_prompt_is_the_published_text():
    row = {"nums": [44, 19, 35], "target": 98}
    assert problem(row).prompt == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant"
        " solves it. The assistant first thinks about the reasoning process in the mind and then"
        " provides the user with the answer.\n"
        "User: Using the numbers [44, 19, 35], create an equation that equals 98. You can use"
        " basic arithmetic operations (+, -, *, /) and each number can only be used once. Show"
        " your work in <think> </think> tags. And return the final answer in <answer> </answer>"
        " tags, for example <answer> (1 + 2) / 3 </answer>.\n"
        "Assistant: Let me solve this step by step.\n<think>"
    )


def test_chat_asks_the_same_in_one_user_turn():
    [message] = problem(ROW, template="chat").prompt
    assert message["role"] == "user"
    assert message["content"] in problem(ROW).prompt


def test_other_columns_are_carried_and_numbers_become_integers():
    row = {"nums": np.array([3, 5, 8]), "target": np.int64(16), "id": "a"}
    columns = problem(row).columns
    assert columns == {"nums": [3, 5, 8], "target": 16, "id": "a"}
    assert problem(row).prompt == PROBLEM.prompt


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"target": 3}, "lacks nums"),
        ({"numbers": [1], "goal": 3}, "lacks nums, target: it has numbers, goal"),
        ({"nums": [1.5], "target": 3}, "whole numbers"),
        ({"nums": "1 2", "target": 3}, "whole numbers"),
        ({"nums": 3, "target": 3}, "whole numbers"),
        ({"nums": [], "target": 3}, "at least one number"),
        ({"nums": [3, -1], "target": 3}, "none below 0"),
    ],
)
def test_a_row_that_is_no_problem_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        problem(row)


def test_an_unknown_template_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"'tinizero'\. Choose one of tinyzero, chat, plain"):
        problem(ROW, template="tinizero")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "row",
    [ROW, {"nums": [3, 3, 8, 8], "target": 24}, {"nums": [7], "target": 7}],
)
def test_a_demonstration_solves_its_problem(row, template):
    posed = problem(row, template=template)
    assert grade(posed, demonstration(row, template=template)).correct


def test_derivations_are_written_like_the_real_ones():
    row = {"nums": [44, 19, 35], "target": 98}
    assert demonstration(row) == (
        "35 + 19 = 54\n44 + 54 = 98\nTherefore, the final equation is 44 + (35 + 19) </think>\n"
        "<answer> 44 + (35 + 19) </answer>"
    )
    plain = demonstration(row, template="plain")
    assert plain == "35+19=54;44+54=98;<answer>44+(35+19)</answer>"


def test_the_rows_own_derivation_is_used():
    row = ROW | {"answer": "8 + 3 = 11\n11 + 5 = 16 </think>\n<answer> (8 + 3) + 5 </answer>"}
    assert demonstration(row) == row["answer"]
    assert demonstration(row, template="chat") == f"<think>\n{row['answer']}"
    plain = demonstration(row, template="plain")
    assert plain == "8+3=11;11+5=16;<answer>(8+3)+5</answer>"


def test_reasoning_of_a_response_is_closed_before_its_answer():
    row = ROW | {"response": "I add.\n\n<answer>3+5+8</answer>"}
    assert demonstration(row) == "I add. </think>\n<answer>3+5+8</answer>"
    opened = ROW | {"response": "<think>I add.</think><answer>3+5+8</answer>"}
    assert demonstration(opened, template="chat") == "<think>\nI add.</think><answer>3+5+8</answer>"


def test_a_wrong_or_impossible_demonstration_is_refused():
    with pytest.raises(ValueError, match="'8-3-5', which does not make 16"):
        demonstration(ROW | {"answer": "<answer>8-3-5</answer>"})
    with pytest.raises(ValueError, match=r"No expression of \[1, 1\] makes 9"):
        demonstration({"nums": [1, 1], "target": 9})


def test_group_is_the_count_of_numbers():
    assert group(PROBLEM) == "3 numbers"


@pytest.mark.slow
def test_every_real_derivation_is_correct(shared_rows):
    rows = shared_rows("countdown/solution_steps.jsonl.gz")
    rows += shared_rows("countdown/solution_steps_eval.jsonl.gz")
    assert len(rows) == 10_233 + 512
    assert all(grade(problem(row), row["answer"]).correct for row in rows)


def test_real_derivations_are_correct_and_written_as_ours(shared_rows):
    for row in shared_rows("countdown/solution_steps_eval.jsonl.gz"):
        assert grade(problem(row), row["answer"]).correct
        assert demonstration(row) == row["answer"]
        expression = parse(answer_text(row["answer"]))
        assert TEMPLATES["tinyzero"].derivation(expression) == row["answer"]


def test_real_traces_are_correct_and_stay_so_as_demonstrations(shared_rows):
    for row in shared_rows("countdown/sft_traces_qwen3_8b_2k.jsonl.gz")[::10]:
        assert grade(problem(row), row["response"]).correct
        assert grade(problem(row), demonstration(row)).correct
