import subprocess
import sys

import pytest

from rlft_jax.tasks import TASKS

ROWS = {
    "countdown": {"nums": [3, 5, 8], "target": 16},
    "gsm8k": {"question": "How many are 2 and 2?", "answer": "2+2 = <<2+2=4>>4\n#### 4"},
}


@pytest.mark.parametrize("name", ROWS)
def test_every_template_of_every_task_demonstrates_what_it_grades_correct(name):
    task = TASKS[name]
    for template in task.TEMPLATES:
        posed = task.problem(ROWS[name], template=template)
        response = task.demonstration(ROWS[name], template=template)
        assert task.grade(posed, response).correct
        assert task.SCORERS["strict"](posed, response) == task.grade(posed, response).score == 1.0
        assert task.group(posed)


def test_a_task_without_demonstrations_says_so():
    assert TASKS.keys() - ROWS.keys() == {"ifeval"}
    with pytest.raises(ValueError, match="nothing to fine-tune on"):
        TASKS["ifeval"].demonstration({"prompt": "?"}, template="chat")


def test_tasks_import_neither_jax_nor_numpy():
    heavy = "{'jax', 'numpy', 'flax', 'transformers', 'datasets', 'orbax', 'grain'}"
    code = f"import sys, rlft_jax.tasks; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
