"""Facts about finding a prompt and two responses in a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_jax.data.pairs import pair_of, prompt_key


def said(*turns: str) -> list[dict]:
    """A chat whose turns are the user's and the assistant's in turn, unless they say whose."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


EXPLICIT = {"prompt": said("u:2+2?"), "chosen": said("a:4"), "rejected": said("a:5")}


@pytest.mark.parametrize(
    "row",
    [
        EXPLICIT,
        {"chosen": said("u:2+2?", "a:4"), "rejected": said("u:2+2?", "a:5")},
        # UltraFeedback binarized: the prompt as text, and once more the chosen chat.
        {
            "prompt": "2+2?",
            "chosen": said("u:2+2?", "a:4"),
            "rejected": said("u:2+2?", "a:5"),
            "messages": said("u:2+2?", "a:4"),
        },
        {"messages": said("u:2+2?"), "chosen": "4", "rejected": "5"},
        {"prompt": "2+2?", "chosen": said("a:4"), "rejected": said("a:5")},
        # What Arrow makes of columns that other rows have.
        {**EXPLICIT, "messages": None, "margin": None},
    ],
    ids=lambda row: ", ".join(row),
)
def test_chats_in_every_format_are_one_pair(row):
    prompt, chosen, rejected, columns = pair_of(row)
    assert (prompt, chosen, rejected) == (said("u:2+2?"), said("a:4"), said("a:5"))
    assert columns is row


def test_texts_stay_texts():
    row = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
    assert pair_of(row)[:3] == ("2+2=", "4", "5")


def test_an_implicit_prompt_ends_before_the_turn_of_the_assistant_that_differs():
    start = said("s:Be brief.", "u:2+2?")
    chosen = [*start, *said("a:4", "u:Sure?", "a:Yes")]
    for rejected in (
        said("a:5"),
        said("a:5", "u:Sure?", "a:No"),
        said("a:4", "u:Really?", "a:Yes"),
    ):
        assert pair_of({"chosen": chosen, "rejected": [*start, *rejected]})[0] == start
    # One chat that goes on where the other ends.
    assert pair_of({"chosen": chosen, "rejected": chosen[:3]})[0] == start
    later = [*start, *said("a:4", "u:Sure?", "a:No")]
    assert pair_of({"chosen": chosen, "rejected": later})[0] == chosen[:4]


def test_equal_chats_are_a_pair_of_equal_answers():
    chat = said("u:2+2?", "a:4")
    assert pair_of({"chosen": chat, "rejected": chat})[:3] == (chat[:1], chat[1:], chat[1:])


@given(st.text("ab \n", min_size=1), st.text("ab "), st.text("ab "))
def test_an_implicit_text_prompt_and_its_responses_make_the_texts_again(start, chosen, rejected):
    row = {"chosen": "Q" + start + chosen, "rejected": "Q" + start + rejected}
    pair = pair_of(row)
    assert pair.prompt + pair.chosen == row["chosen"]
    assert pair.prompt + pair.rejected == row["rejected"]
    if pair.chosen != pair.rejected:
        assert pair.prompt
        assert not pair.prompt.endswith(" ") or pair.chosen[:1] == " " == pair.rejected[:1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"columns \(none\) are no pair"),
        ({"question": "?"}, r"columns question \(str\) are no pair"),
        ({"chosen": "4", "rejected": None}, r"chosen \(str\), rejected \(NoneType\) are no pair"),
        ({"chosen": "4", "rejected": said("a:5")}, "are no pair"),
        ({"chosen": [], "rejected": []}, "are no pair"),
        ({"chosen": ["4"], "rejected": ["5"]}, "are no pair"),
        ({"chosen": "4", "rejected": "5"}, "begin differently"),
        ({"chosen": said("a:4"), "rejected": said("a:5")}, "no column holds the chat"),
        ({"chosen": said("u:?", "a:4"), "rejected": said("u:!", "a:5")}, "part before"),
        ({**EXPLICIT, "prompt": 4}, "`prompt` is 4"),
        ({**EXPLICIT, "prompt": [{"text": "?"}]}, "list of messages"),
    ],
)
def test_what_is_no_pair_is_said(row, message):
    with pytest.raises(ValueError, match=message):
        pair_of(row)


def test_chats_that_begin_with_one_question_are_of_one_prompt():
    first = said("s:Be brief.", "u: 2+2?")
    assert prompt_key(first) == prompt_key([*first[:1], *said("u:2+2? ", "a:4", "u:Sure?")])
    assert prompt_key(first) != prompt_key(said("u:2+2?"))
    assert prompt_key("2+2=") != prompt_key("2+2=4, 3+3=")
