"""Facts about problems to sample responses to."""

import json

import pytest

from rlft_jax.data.inspection import summary
from rlft_jax.data.problems import Problems, encode_problem, fitting
from rlft_jax.tasks.problem import Problem


@pytest.fixture
def file(tmp_path):
    """A file of ten prompts of 1 to 10 tokens, with a column for the verifier."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a" * n, "answer": n, "completion": "no"} for n in range(1, 11)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_long_prompts_are_dropped_and_counted(letters):
    posed = [Problem("a" * n, {}) for n in (1, 5, 9)]
    sized = [(problem, len(letters.encode(problem.prompt))) for problem in posed]
    kept, report = fitting(sized, tokens=5)
    assert kept == posed[:2]
    assert (report.rows, report.kept, report.too_long, report.tokens) == (3, 2, 1, 6)
    assert "these are prompts" in summary(report)


def test_all_other_columns_reach_the_verifier(letters, file):
    data = Problems(path=str(file)).read(letters, 100, 0)
    assert data.parts[0][2] == Problem("aaa", {"answer": 3, "completion": "no"})


def test_held_out_problems_are_not_trained_on(letters, file):
    data = Problems(path=str(file), holdout=0.3).read(letters, 100, 0)
    answers = [problem.columns["answer"] for problem in [*data.parts[0], *data.heldout]]
    assert (len(data.parts[0]), len(data.heldout)) == (7, 3)
    assert sorted(answers) == list(range(1, 11))


def test_messages_and_tools_become_a_prompt(letters):
    letters.hf.chat_template += "{{ tools[0].name if tools else 'none' }}"
    user = [{"role": "user", "content": "Hi"}]
    prompt = lambda columns: letters.decode(encode_problem(Problem(user, columns), letters))
    assert prompt({}) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nnone"
    assert prompt({"tools": [{"name": "add"}]}).endswith("add")


def test_a_task_poses_its_problems(letters, shared_data):
    path = shared_data / "countdown/tasks_3to4_eval.jsonl.gz"
    data = Problems(path=str(path), task="countdown", limit=5).read(letters, 2000, 0)
    problem = data.parts[0][0]
    assert problem.prompt.endswith("<think>") or problem.prompt.endswith("<think>\n")
    assert str(list(problem.columns["nums"])) in problem.prompt


def test_prompts_that_are_missing_or_do_not_fit_are_refused(letters, file, tmp_path):
    with pytest.raises(ValueError, match="all 10 prompts have more than 0 tokens, the shortest 1"):
        Problems(path=str(file)).read(letters, 0, 0)
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "?"}\n')
    with pytest.raises(ValueError, match=r"other\.jsonl(.|\n)*- line 1: The columns question hold"):
        Problems(path=str(other)).read(letters, 100, 0)


def test_a_prompt_that_cannot_be_encoded_is_named(letters, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b\\ud800"}\n')
    with pytest.raises(
        ValueError, match=r"config\.data\.path = .*(.|\n)*- line 3: It holds \\ud800"
    ):
        Problems(path=str(path)).read(letters, 100, 0)
