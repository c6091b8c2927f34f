"""IFEval's `change_case:` instructions: all capitals, no capitals, so many words in capitals."""

import re

from rlft_jax.tasks.ifeval.language import language_of
from rlft_jax.tasks.ifeval.relation import Relation, holds

# What stands between two words. Hyphens and slashes bind: "STATE-OF-THE-ART" is one word.
_BETWEEN = re.compile(r"[\s;@#$%&?!\[\](){}<>\"“”«»]+|\.{2,}|--+|[,:](?!\d)|[,:]$")
# English contractions are two words each: I'M, DON'T, CANNOT.
_CLITIC = re.compile(r"(?i)(?<=[^\s'])('(?:s|m|d|ll|re|ve)|n't)(?=\W|$)")
_FUSED = re.compile(r"(?i)\b(can)(?=not\b)|\b(gon|wan)(?=na\b)|\b(got)(?=ta\b)|\b(gim|lem)(?=me\b)")


def capital_word_frequency(
    response: str, *, capital_frequency: int, capital_relation: Relation
) -> bool:
    """Whether enough or few enough words are all in capitals; `capital_words` counts them."""
    return holds(capital_words(response), capital_relation, capital_frequency)


def english_capital(response: str) -> bool:
    """Whether it is English, and has capital letters only."""
    return response.isupper() and language_of(response) == "en"


def english_lowercase(response: str) -> bool:
    """Whether it is English, and has no capital letter."""
    return response.islower() and language_of(response) == "en"


def capital_words(text: str) -> int:
    """How many words are all in capitals, among them "I" and "A".

    Words are cut as in the Penn Treebank, which NLTK's tokenizer in the published code follows:
    hyphens bind, contractions are two words.

    >>> capital_words("I DON'T like NASA's X-RAY, Bob.")
    5
    """
    words = _BETWEEN.sub(" ", text)
    words = _FUSED.sub(lambda found: f"{found[0]} ", _CLITIC.sub(r" \1", words))
    return sum(1 for word in words.split() if word.isupper())
