"""IFEval's `length_constraints:` instructions: words, sentences and paragraphs."""

import re

from rlft_jax.tasks.ifeval.relation import Relation, holds
from rlft_jax.tasks.ifeval.sentences import sentences

_WORD = re.compile(r"\w+")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_ENDS_A_WORD = re.compile(r"[.,?!'\"]")


def number_words(response: str, *, num_words: int, relation: Relation) -> bool:
    """Whether there are enough or few enough words: runs of letters, digits and underscores.

    "don't" and "3.5" count two each, as in the published code.
    """
    return holds(sum(1 for _ in _WORD.finditer(response)), relation, num_words)


def number_sentences(response: str, *, num_sentences: int, relation: Relation) -> bool:
    """Whether there are enough or few enough sentences; see `sentences` for what counts."""
    return holds(sentences(response), relation, num_sentences)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Whether the markdown divider *** cuts the response into this many paragraphs.

    An empty paragraph fails it, except before a first and after a last divider.
    """
    paragraphs = [paragraph.strip() for paragraph in _DIVIDER.split(response)]
    if not all(paragraphs[1:-1]):
        return False
    return sum(map(bool, paragraphs)) == num_paragraphs


def nth_paragraph_first_word(
    response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    r"""Whether there are this many paragraphs, and the nth starts with the word.

    Paragraphs are separated by "\n\n". Only those with text are counted, but the nth is found among
    all: the published code does so, and a response with an empty paragraph fails by it.
    """
    paragraphs = [paragraph.strip() for paragraph in response.split("\n\n")]
    written = sum(map(bool, paragraphs))
    if written != num_paragraphs or not 1 <= nth_paragraph <= written:
        return False
    chosen = paragraphs[nth_paragraph - 1]
    return bool(chosen) and _first_word(chosen) == first_word.lower()


def _first_word(paragraph: str) -> str:
    """The first word, in lower case, without quotation marks before it or what follows a mark."""
    word = paragraph.split(maxsplit=1)[0].lstrip("'").lstrip('"')
    return _ENDS_A_WORD.split(word, maxsplit=1)[0].lower()
