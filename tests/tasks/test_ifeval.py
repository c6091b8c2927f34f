"""Every instruction of IFEval: what follows it, what does not, and how rows are read."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_jax.tasks import ifeval
from rlft_jax.tasks.ifeval import CHECKERS, Instruction, instructions_of

AT_LEAST, LESS = "at least", "less than"

# Instruction, arguments, responses that follow it, responses that do not.
CASES = [
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": AT_LEAST},
        ["I SAY NO", "a STATE-OF-THE-ART, COVID-19 and (NASA)", "I DON'T", "**RED**, A, B."],
        ["I say NO", "Red Green Blue", "3 4 5 6", "STATE-OF-THE-ART"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LESS},
        ["One NASA", "none"],
        ["NASA, ESA", "NASA/ESA and I"],
    ),
    (
        "change_case:english_capital",
        {},
        ["THIS IS WHAT WE WANT, AND THE 2 OF US KNOW IT!"],
        ["THIS IS WHAT We WANT", "DAS IST NICHT DAS, WAS WIR WOLLEN", "42", "это не так"],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["this is what we want, and the 2 of us know it!", "don't worry: it's the cat's toy"],
        ["This is what we want", "das ist nicht das, was wir wollen", "42"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a haiku about Rain. "},
        ["Write a haiku about Rain.\n\nDrops", "\n write a HAIKU about rain. Drops"],
        ["Sure: Write a haiku about Rain.", "Write a haiku about snow."],
    ),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******one******two******"],
        ["one", "one******one", "one******two******three", "one****** ******two", "******one"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] lives in [city]", "[[a] []", "[a]\n[b] [c]"],
        ["[name]", "[one\nline]", "[[both]", "]name[ ]city["],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Yes.\nP.S. No.", "Yes. p. s. no"],
        ["Yes.", "PS: no", "P.P.S no"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Yes.\n\nP.P.S. No", "p. p. s no"],
        ["P.S. no", "PPS no"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "Nota (bene)"},
        ["NOTA (BENE): no"],
        ["Nota bene: no"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well... My answer is maybe. Who knows?"],
        ["My answer is yes", "my answer is no.", "Yes."],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "```\n[]\n```", " 7 "],
        ["{'a': 1}", 'Here: {"a": 1}', '{"a": 1}\nThat is all.', "[" * 100_000, "{"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "a SECTION1 b SECTION 22", "SECTION 1SECTION 2"],
        ["SECTION 1", "Section 1 Section 2", "SECTION one SECTION two", "SECTION 12"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "text\n\n  - a\n\t- b\nmore", "-a\n*b", "* a\n** no\n* b"],
        ["* a", "* a\n* b\n* c", "** a\n** b", "+ a\n+ b", "1 * a\n2 - b", "*\n*"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two*", "*one **two***"],
        ["*one*", "** ** and * *", "*one\ntwo* *three", "one two", "**one**"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<Joy>>\nIt is.", "so\nhere: <<a > b>>", "<<<Joy>>>"],
        ["<Joy>", "<<Joy\n>>", "<<>>", "<<  >>", ">>Joy<<", "<<<>>>"],
    ),
    (
        "keywords:existence",
        {"keywords": ["rate", "C++"]},
        ["The RATE of c++", "a pirate wrote c++"],
        ["The rate of C", "C++", ""],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rock", "e.g."]},
        ["Rocks and stones", "egg and Bedrock"],
        ["We will ROCK you", "rock-solid", "some, e.g.x"],
    ),
    (
        "keywords:frequency",
        {"keyword": " story ", "frequency": 2, "relation": AT_LEAST},
        ["Story on story", "history, storytelling"],
        ["a story", "stories and stories"],
    ),
    (
        "keywords:frequency",
        {"keyword": "story", "frequency": 1, "relation": LESS},
        ["stories"],
        ["History"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": AT_LEAST},
        ["Quite quick"],
        ["Quite so", "kuite kuick"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": LESS},
        ["#one"],
        ["#one #two"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das weiß ich nicht, aber es ist schön.", "Der Artikel sagt: “Yes”. Und das ist alles."],
        ["I do not know that.", "No lo sé, pero es muy bonito.", "это не так", "42!"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Elm"},
        ["Oaks.\n\nElm trees", "Oaks.\n\n'ELM!s' trees\n\n", 'Oaks.\n\n"elm" is a tree'],
        [
            "Elm.\n\nOak",
            "Oak.\nElm",
            "a\n\nelm\n\nb",
            "a\n\nelms",
            "a\n\n\n\nelm",
            "a\n\n.elm",
        ],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***", "a***b"],
        ["a\n\nb", "a\n***\nb\n***\nc", "a\n***\n***\nb", "a", "a****** b"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": AT_LEAST},
        ["One. Two.", "Really?! Yes", "He lives in the U.S. He likes it.", "“So be it.” “No!”"],
        ["One.", "Mr. Doe paid $3.50 to J. Roe, i.e. too much.", "a\nb\nc", "Wait... what?", "..."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": LESS},
        ["Dr. No vs. Mr. Yes", "one"],
        ["One. two."],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": AT_LEAST},
        ["one two three four", "don't, 3.5", "größer 漢字 три 4"],
        ["one two three", "state_of_the_art", "- - - - -"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 2, "relation": LESS},
        ["one"],
        ["one two"],
    ),
    ("punctuation:no_comma", {}, ["a; b", "a، b、c"], ["a, b", "1,000"]),
    (
        "startend:end_checker",
        {"end_phrase": " So what is next?"},
        ["Done. so WHAT is next?\n", '"Done. So what is next?"'],
        ["So what is next? Tell me.", "So what is next"],
    ),
    ("startend:quotation", {}, ['"a"', ' "a" or "b"\n'], ['"', '"a', "“a”", "'a'", 'so "a"']),
]


def test_there_is_a_case_of_every_instruction():
    assert len(CHECKERS) == 25
    assert {case[0] for case in CASES} == set(CHECKERS)


@pytest.mark.parametrize(("id", "arguments", "follow", "break_it"), CASES, ids=lambda value: None)
def test_instruction(id, arguments, follow, break_it):
    row = {"prompt": "Do it.", "instruction_id_list": [id], "kwargs": [arguments]}
    [instruction] = instructions_of(row)
    assert [text for text in follow if not instruction.is_followed(text)] == []
    assert [text for text in break_it if instruction.is_followed(text)] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_an_empty_response_follows_nothing(case):
    assert not Instruction(case[0], case[1]).is_followed(" \n ")


HOSTILE = [
    "[" * 20_000,
    "[]" * 10_000,
    "<<" * 10_000,
    "<<>" * 7_000,
    "*" * 20_000,
    "*a" * 10_000,
    "\n" * 20_000,
    " " * 20_000 + "x",
    "\n " * 10_000 + "-",
    "p. " * 7_000,
    "P.\nP." * 2_000,
    '{"a":' * 4_000,
    "9" * 20_000,
    '"' * 20_000,
    "A'" * 10_000,
    "'S" * 10_000,
    "can" * 7_000,
    "...!?" * 4_000,
    "U.S. " * 4_000,
    "SECTION " * 3_000,
    "Section 1" * 2_000,
    "a\n\n" * 3_500,
    "e\u0301\u0316" * 7_000,
    "äöüß" * 5_000,
    "\x00\ud800" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:6]))
def test_hostile_responses_take_linear_time(text):
    start = time.process_time()
    for id, arguments, _, _ in CASES:
        Instruction(id, arguments).is_followed(text)
    # 20 ms in all without type checks; each 20 KB at quadratic cost would take seconds.
    assert time.process_time() - start < 5


ROWS = [
    {"prompt": "Do it.", "instruction_id_list": [id], "kwargs": [arguments]}
    for id, arguments, _, _ in CASES
]
LETTERS = "[]<>*\n .,!?'\"-{}PpSs:12abAB#äж"


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.sampled_from(ROWS), st.one_of(st.text(LETTERS, max_size=60), st.text(max_size=60)))
def test_what_is_followed_strictly_is_followed_loosely(row, text):
    found = ifeval.verdict(instructions_of(row), text)
    assert [type(followed) for followed in found.strict] == [bool]
    assert found.loose >= found.strict


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.text("abcXYZ .!?\n", max_size=12), min_size=1, max_size=6), st.integers(0, 8))
def test_paragraphs_and_words_are_counted_exactly(parts, number):
    text = "\n***\n".join(parts)
    written = [part for part in parts if part.strip()]
    expected = bool(all(part.strip() for part in parts[1:-1])) and len(written) == number
    check = Instruction("length_constraints:number_paragraphs", {"num_paragraphs": number})
    assert check.is_followed(text) == (expected and bool(text.strip()))


def test_every_row_of_the_public_set_can_be_checked(shared_rows):
    rows = shared_rows("eval/ifeval_public.jsonl.gz")
    problems = [ifeval.problem(row) for row in rows]
    assert len(problems) == 341
    named = [id for row in rows for id in row["instruction_id_list"]]
    assert set(named) == set(CHECKERS)
    assert len(named) == 528
    # As many as by the published code.
    refused = [not ifeval.grade(problem, "I cannot do that.").correct for problem in problems]
    assert sum(refused) == 302


def row(*ids_and_arguments):
    ids, arguments = zip(*ids_and_arguments)
    return {"key": 7, "prompt": "Do.", "instruction_id_list": list(ids), "kwargs": list(arguments)}


def test_arguments_that_are_none_are_absent():
    # The hub's copy fills every row up to the same names.
    filled = {"num_words": 3, "relation": "at least", "keywords": None, "letter": None}
    [instruction] = instructions_of(row(("length_constraints:number_words", filled)))
    assert instruction.arguments == {"num_words": 3, "relation": "at least"}


def test_a_row_that_cannot_be_checked_is_refused_with_all_that_is_wrong():
    wrong = row(
        ("keywords:exist", {}),
        ("punctuation:no_comma", {"num_words": 3}),
        ("length_constraints:number_words", {"num_words": "3", "relation": "at most"}),
        ("language:response_language", {"language": "klingon"}),
        ("keywords:existence", {"keywords": "cat"}),
    )
    with pytest.raises(ValueError, match="cannot be checked") as caught:
        ifeval.problem(wrong)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 6
    assert "there is no instruction 'keywords:exist'. Choose one of change_case:" in lines[0]
    assert "punctuation:no_comma takes no arguments, but the row gives num_words" in lines[1]
    assert "has num_words = '3'. It must be a whole number of 0 or more" in lines[2]
    assert "has relation = 'at most'. It must be one of less than, at least" in lines[3]
    assert "has language = 'klingon'. It must be a language code, one of en, es" in lines[4]
    assert "has keywords = 'cat'. It must be a list of texts" in lines[5]


def test_rows_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="lacks instruction_id_list, kwargs: it has prompt"):
        ifeval.problem({"prompt": "Do."})
    with pytest.raises(ValueError, match=r"1 instructions .* 0 in `kwargs`"):
        ifeval.problem({"prompt": "Do.", "instruction_id_list": ["a:b"], "kwargs": []})
    with pytest.raises(ValueError, match=r"0 instructions"):
        ifeval.problem({"prompt": "Do.", "instruction_id_list": [], "kwargs": []})
    with pytest.raises(ValueError, match="no response to imitate"):
        ifeval.demonstration(row(("punctuation:no_comma", {})))
