"""IFEval's `keywords:` instructions: what a response has to mention, or must not."""

import re
from collections.abc import Sequence

from rlft_jax.tasks.ifeval.relation import Relation, holds


def existence(response: str, *, keywords: Sequence[str]) -> bool:
    """Whether every keyword occurs, in any case, also inside of longer words."""
    return all(_found(re.escape(keyword), response) for keyword in keywords)


def frequency(response: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """Whether the keyword occurs often or seldom enough, counted as in `existence`."""
    occurrences = re.findall(re.escape(keyword.strip()), response, re.IGNORECASE)
    return holds(len(occurrences), relation, frequency)


def forbidden_words(response: str, *, forbidden_words: Sequence[str]) -> bool:
    """Whether none of the words occurs, in any case, as a word of its own."""
    return not any(_found(rf"\b{re.escape(word)}\b", response) for word in forbidden_words)


def letter_frequency(
    response: str, *, letter: str, let_frequency: int, let_relation: Relation
) -> bool:
    """Whether a letter occurs often or seldom enough, in either case.

    The published code takes a random letter for one outside of a to z, such as the "#" and "!" of
    two of its prompts; here they are counted like any other.
    """
    return holds(response.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _found(pattern: str, response: str) -> bool:
    return re.search(pattern, response, re.IGNORECASE) is not None
