import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_jax.tasks import countdown
from rlft_jax.tasks.countdown_compat import score

REPLY = "Assistant: x\n<answer> {} </answer>"


# The behaviour of the original, entry by entry, as it was recorded by running it.
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Assistant: x\n<answer> 3 + 5 + 8 </answer>", 1.0),
        ("<|im_start|>assistant\n<answer>3+5+8</answer>", 1.0),
        ("Assistant: x\n<answer>3+5+8</answer> and so it is done", 1.0),
        ("<answer>3+5+8</answer>", 0.0),  # no prefix
        ("Assistant: x\n<answer>3+5+8</answer>\n", 0.0),  # the last line is empty
        ("Assistant: x\n<answer>3+5\n+8</answer>", 0.0),  # a tag over two lines
        ("Assistant: <answer>3+5+8</answer> <answer>3+5</answer>", 0.1),
        ("Assistant: <answer>3+5</answer> <answer>3+5+8</answer>", 1.0),
        ("Assistant: <answer>3+5+8", 0.0),  # never closed
        (REPLY.format("3+5+8+3"), 0.1),  # a number reused
        (REPLY.format("8+8"), 0.1),
        (REPLY.format("3+5"), 0.1),  # a number left out
        (REPLY.format("3+5+8=16"), 0.1),
        (REPLY.format("3+5+8 apples"), 0.1),
        ("Assistant: <answer></answer>", 0.1),
        (REPLY.format("35+8"), 0.1),  # digits concatenated
        (REPLY.format("3*5-8"), 0.1),  # merely wrong
    ],
)
def test_replies_to_3_5_8_make_16_score_as_in_tinyzero(reply, expected):
    assert score(reply, [3, 5, 8], 16) == expected


@pytest.mark.parametrize(
    ("equation", "nums", "target", "expected"),
    [
        ("4/(2-2)", [4, 2, 2], 4, 0.1),
        ("8/(3-8/3)", [3, 3, 8, 8], 24, 1.0),  # exact to 1e-5 only
        ("2**3", [2, 3], 8, 1.0),
        ("7//2", [7, 2], 3, 1.0),
        ("1.5", [1, 5], 1.5, 1.0),
        ("07+1", [7, 1], 8, 0.1),
    ],
)
def test_loopholes_and_failures_are_those_of_tinyzero(equation, nums, target, expected):
    assert score(REPLY.format(equation), nums, target) == expected


@pytest.mark.parametrize(
    ("equation", "nums", "target"),
    [
        ("00+7", [0, 7], 7),
        ("1.+2", [1, 2], 3),
        (".5*4", [5, 4], 2),
        ("01.5", [1, 5], 1.5),
        ("+--3", [3], 3),
        ("2**-1", [2, 1], 0.5),
        ("-2**2", [2, 2], -4),
        ("2**3**2", [2, 3, 2], 512),
        ("-7//2", [7, 2], -4),
        ("1/3*3", [1, 3, 3], 1),
        ("((-2)**.5)**2", [2, 5, 2], -2),  # through a complex number
        ("(3\r+5)", [3, 5], 8),
    ],
)
def test_python_evaluates_it_so_the_scorer_does(equation, nums, target):
    assert eval(equation) == pytest.approx(target)
    assert score(REPLY.format(equation), nums, target) == 1.0


@pytest.mark.parametrize(
    "equation",
    [
        "9**9**9",
        "(9**9)**9**9",
        "-9**9**9*0",
        "9**999999999",
        "()",
        "...",
        "9(9)",
        "9\r+9",
        "9\x0b+9",
        "(" * 201 + "9" + ")" * 201,
        "9" * 5000,
        "-" * 1_000_000 + "9",
        "(" * 1_000_000,
        "<answer>" * 100_000,
    ],
)
def test_hostile_equations_get_the_format_score_at_once(equation):
    nums = [int(run) for run in re.findall(r"\d+", equation) if len(run) < 4000]
    assert score(f"Assistant: <answer>{equation}</answer>", nums, 9) == 0.1


def test_unclosed_tags_take_linear_time():
    assert score("Assistant: " + "<answer>" * 200_000, [1], 1) == 0.0  # quadratic: minutes


def original(solution, nums, target):
    """The published logic with its `eval`; only for short strings."""
    if "Assistant:" in solution:
        solution = solution.split("Assistant:", 1)[1]
    elif "<|im_start|>assistant" in solution:
        solution = solution.split("<|im_start|>assistant", 1)[1]
    else:
        return 0.0
    answers = re.findall(r"<answer>(.*?)</answer>", solution.split("\n")[-1])
    if not answers:
        return 0.0
    equation = answers[-1].strip()
    try:
        if sorted(int(n) for n in re.findall(r"\d+", equation)) != sorted(nums):
            return 0.1
        if not re.match(r"^[\d+\-*/().\s]+$", equation):
            return 0.1
        result = eval(equation, {"__builtins__": None}, {})
        return 1.0 if abs(result - target) < 1e-5 else 0.1
    except Exception:
        return 0.1


pieces = st.sampled_from(
    ["3", "5", "0", "03", "1.5", "+", "-", "*", "/", "**", "//", "(", ")", ".", " ", "\r", "\f"]
)


@settings(max_examples=1500, derandomize=True, deadline=None)
@given(st.lists(pieces, max_size=9).map("".join))
def test_random_equations_score_as_with_eval(equation):
    if equation.count("**") > 1:
        return  # eval may hang
    nums = [int(run) for run in re.findall(r"\d+", equation)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's opinion of 3(5)
        try:
            target = eval(equation.strip(), {"__builtins__": None}, {})
            target = target if isinstance(target, int | float) else 7
        except Exception:
            target = 7
        text = f"Assistant: <answer>{equation}</answer>"
        assert score(text, nums, target) == original(text, nums, target)


texts = st.sampled_from(
    ["Assistant:", "<|im_start|>assistant", "<answer>", "</answer>", "3+5", "3", "\n", " ", "x"]
)


@settings(max_examples=800, derandomize=True, deadline=None)
@given(st.lists(texts, max_size=10).map("".join))
def test_random_replies_score_as_with_the_original_extraction(reply):
    assert score(reply, [3, 5], 8) == original(reply, [3, 5], 8)


@pytest.mark.parametrize("template", ["tinyzero", "chat"])
def test_a_response_is_scored_behind_its_prompt(template):
    problem = countdown.problem({"nums": [3, 5, 8], "target": 16}, template=template)
    compat = countdown.SCORERS["compat"]
    assert compat(problem, "thinking </think>\n<answer>3+5+8</answer>") == 1.0
    assert compat(problem, "thinking </think>\n<answer>3+5+8</answer>\n") == 0.0


def test_a_prompt_where_everything_would_score_nothing_is_refused():
    problem = countdown.problem({"nums": [3, 5, 8], "target": 16}, template="plain")
    with pytest.raises(ValueError, match="Use the strict scorer"):
        countdown.SCORERS["compat"](problem, "<answer>3+5+8</answer>")


def test_scores_of_real_replies_are_those_of_the_original(shared_rows):
    for row in shared_rows("countdown/dpo_pairs_qwen25_05b.jsonl.gz")[:300]:
        for reply in (row["chosen"], row["rejected"]):
            case = row["prompt"] + reply, row["nums"], row["target"]
            assert score(*case) == original(*case)
