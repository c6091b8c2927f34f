"""Verdicts on IFEval's prompts equal those of the published code, which lm-eval carries."""

import functools
import gzip
import json
import random

import pytest

nltk = pytest.importorskip("nltk")
pytest.importorskip("lm_eval")
pytest.importorskip("langdetect")
pytest.importorskip("immutabledict")

from rlft_jax.tasks import ifeval  # noqa: E402 - needs what is looked for above

pytestmark = pytest.mark.oracle

# These ask a statistical guesser or a downloaded model there; we differ from both by intent.
GUESSED = {
    "change_case:english_capital",
    "change_case:english_lowercase",
    "language:response_language",
    "length_constraints:number_sentences",
}
PIECES = [
    *(
        "* point",
        "- point",
        "*high light*",
        "**bold** and *it*",
        "<<title>>",
        "<<>>",
        "[name] [",
        "",
    ),
    *("***", "******", "P.S. so", "p. p. s. and so", "SECTION 1", "Section 2", "Day 3", '"', "\n"),
    *("My answer is no.", "```json", '{"a": 1}', "```", "Sure:", "---", "I DON'T, NASA did. OK?"),
    *("Elm trees grow", "one, two", "a state-of-the-art X-RAY (COVID-19)", "the story of a story"),
]


@pytest.fixture
def published(monkeypatch):
    """The published code's verdicts on a response: strict and loose, one for each instruction."""
    monkeypatch.setattr(nltk, "download", lambda *_, **__: True)
    from lm_eval.tasks.ifeval import instructions_util, utils

    # The split into sentences needs a download, and does not change which words are capitals.
    words = functools.partial(nltk.word_tokenize, preserve_line=True)
    monkeypatch.setattr(instructions_util.nltk, "word_tokenize", words)

    def verdict(row, response):
        given = utils.InputExample(**{k: row[k] for k in utils.InputExample.__annotations__})
        ways = utils.test_instruction_following_strict, utils.test_instruction_following_loose
        return tuple(tuple(way(given, response).follow_instruction_list) for way in ways)

    return verdict


def checked_alike(row):
    """A row without what is guessed there, and without letters that are none: or None."""
    kept = [
        (id, of)
        for id, of in zip(row["instruction_id_list"], row["kwargs"], strict=True)
        if id not in GUESSED and of.get("letter", "a").isalpha()
    ]
    if not kept:
        return None
    ids, arguments = zip(*kept, strict=True)
    return {**row, "instruction_id_list": list(ids), "kwargs": list(arguments)}


def written(rng, row):
    """A response that goes some way towards following a row's instructions."""
    pieces = list(PIECES)
    for arguments in row["kwargs"]:
        for value in arguments.values():
            pieces += (
                value if isinstance(value, list) else [value] if isinstance(value, str) else []
            )
    text = "\n".join(rng.choices(pieces, k=rng.randint(1, 12)))
    text = rng.choice([text, text, f"{row['prompt']}\n{text}", f'"{text}"', text.replace(",", "")])
    return rng.choice([text, text, text.upper(), text.lower()])


def test_verdicts_are_those_of_the_published_code(shared_data, published):
    with gzip.open(shared_data / "eval" / "ifeval_public.jsonl.gz", "rt") as lines:
        rows = [row for line in lines if (row := checked_alike(json.loads(line)))]
    rng = random.Random(0)
    seen = {True: set(), False: set()}
    for row in rng.choices(rows, k=3000):
        response = written(rng, row)
        mine = ifeval.verdict(ifeval.instructions_of(row), response)
        assert mine == published(row, response), (row["instruction_id_list"], response)
        for id, followed in zip(row["instruction_id_list"], mine.loose, strict=True):
            seen[followed].add(id)
    assert seen[False] == set(ifeval.CHECKERS) - GUESSED
    assert seen[True] >= seen[False] - {"length_constraints:nth_paragraph_first_word"}
