"""Rows without a task: what is the prompt, and what is to be imitated."""

import pytest

from rlft_jax.data import row_forms
from rlft_jax.data.mixtures import DatasetSpec

QUESTION = {"role": "user", "content": "2 + 2?"}
ANSWER = {"role": "assistant", "content": "4"}
MORE = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
SYSTEM = {"role": "system", "content": "Be brief."}
ALPACA = {"instruction": "Add.", "input": "2 and 2", "output": "4", "id": 7}


def test_instructions_with_an_input_become_a_prompt():
    row = row_forms.demonstration(ALPACA, template=None, turns="all")
    assert row == {"id": 7, "prompt": "Add.\n\n2 and 2", "completion": "4"}
    bare = row_forms.problem({"instruction": "Go on.", "input": ""}, template=None, turns="all")
    assert bare.prompt == "Go on."


def test_the_chat_template_makes_turns_of_text():
    row = row_forms.demonstration(ALPACA, template="chat", turns="all")
    assert row["prompt"] == [{"role": "user", "content": "Add.\n\n2 and 2"}]
    assert row["completion"] == [{"role": "assistant", "content": "4"}]
    posed = DatasetSpec(path="x", template="chat").problem({"prompt": "2 + 2?", "answer": 4})
    assert (posed.prompt, posed.columns) == ([QUESTION], {"answer": 4})


def test_the_first_turn_of_a_chat_is_the_question_with_its_answer():
    chat = {"messages": [SYSTEM, QUESTION, ANSWER, *MORE], "source": "s"}
    row = DatasetSpec(path="x", turns="first").demonstration(chat)
    assert row == {"messages": [SYSTEM, QUESTION, ANSWER], "source": "s"}
    apart = {"prompt": [QUESTION], "completion": [ANSWER, *MORE]}
    assert DatasetSpec(path="x", turns="first").demonstration(apart) == {
        "messages": [QUESTION, ANSWER]
    }
    assert DatasetSpec(path="x").demonstration(chat) == chat


@pytest.mark.parametrize(("turns", "end"), [("all", 4), ("first", 2)])
def test_a_prompt_ends_before_an_answer(turns, end):
    chat = [SYSTEM, QUESTION, ANSWER, *MORE]
    posed = DatasetSpec(path="x", turns=turns).problem({"messages": chat})
    assert posed.prompt == chat[:end]
    asked = DatasetSpec(path="x", turns=turns).problem({"prompt": [SYSTEM, QUESTION]})
    assert asked.prompt == [SYSTEM, QUESTION]
