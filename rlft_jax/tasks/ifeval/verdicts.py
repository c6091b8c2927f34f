"""Which instructions a response follows, strictly and loosely (Zhou et al., 2023, section 2.2)."""

from collections.abc import Sequence
from typing import NamedTuple

from rlft_jax.tasks.ifeval.instructions import Instruction


class Verdict(NamedTuple):
    """Which of a prompt's instructions are followed, in their order.

    Attributes:
        strict: By the response as it is.
        loose: By the response or one of its `variants`; never less than strictly.
    """

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def verdict(instructions: Sequence[Instruction], response: str) -> Verdict:
    """Checks a response, given without its prompt, against all instructions. Never raises."""
    tried = variants(response)
    return Verdict(
        tuple(instruction.is_followed(response) for instruction in instructions),
        tuple(any(map(instruction.is_followed, tried)) for instruction in instructions),
    )


def variants(response: str) -> list[str]:
    r"""The response, and what is left of it without the frame that models like to add.

    Without its first line ("Sure, here it is:"), its last, both; each of the four with and
    without its asterisks. They can hide a failure, so loose figures are an upper bound.

    >>> variants("Sure:\n*Yes*")
    ['Sure:\n*Yes*', '*Yes*', 'Sure:', '', 'Sure:\nYes', 'Yes']
    """
    lines = response.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    kept = [response, *cut]
    return list(dict.fromkeys(kept + [text.replace("*", "") for text in kept]))
