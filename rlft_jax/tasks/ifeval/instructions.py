"""The 25 instructions of IFEval by their published ids, and the reading of those of a row.

A checker's keyword-only parameters are the arguments of its instruction.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from rlft_jax.tasks.ifeval import composition, formats, keywords, length, letter_case
from rlft_jax.tasks.ifeval.language import LANGUAGES, Language, response_language
from rlft_jax.tasks.ifeval.relation import Relation
from rlft_jax.tasks.problem import Row, require_columns

CHECKERS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": letter_case.capital_word_frequency,
    "change_case:english_capital": letter_case.english_capital,
    "change_case:english_lowercase": letter_case.english_lowercase,
    "combination:repeat_prompt": composition.repeat_prompt,
    "combination:two_responses": composition.two_responses,
    "detectable_content:number_placeholders": formats.number_placeholders,
    "detectable_content:postscript": formats.postscript,
    "detectable_format:constrained_response": formats.constrained_response,
    "detectable_format:json_format": formats.json_format,
    "detectable_format:multiple_sections": formats.multiple_sections,
    "detectable_format:number_bullet_lists": formats.number_bullet_lists,
    "detectable_format:number_highlighted_sections": formats.number_highlighted_sections,
    "detectable_format:title": formats.title,
    "keywords:existence": keywords.existence,
    "keywords:forbidden_words": keywords.forbidden_words,
    "keywords:frequency": keywords.frequency,
    "keywords:letter_frequency": keywords.letter_frequency,
    "language:response_language": response_language,
    "length_constraints:nth_paragraph_first_word": length.nth_paragraph_first_word,
    "length_constraints:number_paragraphs": length.number_paragraphs,
    "length_constraints:number_sentences": length.number_sentences,
    "length_constraints:number_words": length.number_words,
    "punctuation:no_comma": composition.no_comma,
    "startend:end_checker": composition.end_checker,
    "startend:quotation": composition.quotation,
}


@dataclass(frozen=True)
class Instruction:
    """One verifiable instruction: its id, and the arguments that its checker gets."""

    id: str
    arguments: Mapping[str, Any]

    def is_followed(self, response: str) -> bool:
        """Whether a response follows it; an empty one follows nothing. Never raises."""
        return bool(response.strip()) and CHECKERS[self.id](response, **self.arguments)


def instructions_of(row: Row) -> list[Instruction]:
    """The instructions of a row, from `instruction_id_list` and its `kwargs`.

    An argument that is None is taken for absent: the hub's copy of the data set fills all rows up
    to the same names.

    Raises:
        ValueError: If a column is missing, or an instruction or its arguments cannot be checked;
            all that is wrong with the row is told at once. The published code makes random
            arguments up where they are missing.
    """
    require_columns(row, ("prompt", "instruction_id_list", "kwargs"), task="ifeval")
    ids, arguments = row["instruction_id_list"], row["kwargs"]
    if not ids or len(ids) != len(arguments):
        raise ValueError(
            f"An ifeval row has {len(ids)} instructions in `instruction_id_list` and"
            f" {len(arguments)} in `kwargs`. It needs at least one, with one entry in each."
        )
    given = [{k: v for k, v in of.items() if v is not None} for of in arguments]
    problems = [problem for id, of in zip(ids, given, strict=True) for problem in _problems(id, of)]
    if problems:
        known = "\n".join(f"- {problem}" for problem in problems)
        raise ValueError(f"The instructions of an ifeval row cannot be checked:\n{known}")
    return [Instruction(id, of) for id, of in zip(ids, given, strict=True)]


def _problems(id: str, arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with one instruction, in sentences that say what to do."""
    if id not in CHECKERS:
        return [f"there is no instruction {id!r}. Choose one of {', '.join(CHECKERS)}."]
    parameters = inspect.signature(CHECKERS[id]).parameters
    kinds = {p.name: p.annotation for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    if set(kinds) != set(arguments):
        return [
            f"{id} takes {', '.join(kinds) or 'no arguments'}, but the row gives"
            f" {', '.join(arguments) or 'none'}. Set exactly those."
        ]
    return [
        f"{id} has {name} = {arguments[name]!r}. It must be {_KINDS[kind][0]}."
        for name, kind in kinds.items()
        if not _KINDS[kind][1](arguments[name])
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_text, value))


# Kinds of arguments by the annotation of the parameter: in words, and as a test.
_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", _is_text),
    int: ("a whole number of 0 or more", _is_count),
    Sequence[str]: ("a list of texts", _are_texts),
    Relation: (f"one of {', '.join(get_args(Relation))}", get_args(Relation).__contains__),
    Language: (f"a language code, one of {', '.join(LANGUAGES)}", LANGUAGES.__contains__),
}
