"""Pairs of responses of which one was preferred, encoded before training starts."""

import dataclasses
from collections.abc import Sequence

from rlft_jax.data import chat
from rlft_jax.data.encoding import (
    Data,
    Group,
    Progress,
    TooLong,
    encode_groups,
    encode_parts,
)
from rlft_jax.data.mixtures import DatasetSpec
from rlft_jax.data.pairs import pair_of
from rlft_jax.data.prompt_split import PromptDatasets
from rlft_jax.data.report import Report
from rlft_jax.data.row_forms import Turns
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences(PromptDatasets):
    """Pairs of responses of which a policy learns to prefer the chosen one.

    Attributes:
        turns: Whole chats, or only pairs that answer the first question of a chat, without what
            comes after the answer.
        too_long: What happens to pairs of which a side has more than `config.batch.tokens` tokens.
    """

    turns: Turns = "all"
    too_long: TooLong = "drop"

    def read(
        self, tokenizer: Tokenizer, tokens: int, seed: int, progress: Progress | None = None
    ) -> Data[Group]:
        """Reads and encodes them: pairs of examples, the chosen one first.

        Args:
            tokenizer: Of the model.
            tokens: The most that a prompt with a response may have.
            seed: Chooses the prompts that are held out.
            progress: Called with the rows done and the rows there are, of each data set.

        Raises:
            ValueError: If data cannot be read, has another format, or nothing of it is left.
        """
        train, heldout, shared = self.divided_by_prompt(seed)

        def encode(source: DatasetSpec, rows: Sequence[Row]) -> tuple[list[Group], Report]:
            return encode_pairs(
                rows,
                tokenizer,
                tokens=tokens,
                turns=source.turns,
                too_long=self.too_long,
                progress=progress,
            )

        return encode_parts(train, heldout, encode, shared_prompts=shared)


def encode_pairs(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    tokens: int,
    turns: Turns = "all",
    too_long: TooLong = "drop",
    progress: Progress | None = None,
) -> tuple[list[Group], Report]:
    """Returns pairs of examples, the chosen one first, and what became of all rows.

    The policy answers for each response with the token that ends it, never for the prompt. Pairs
    that are equal, or become equal when cut, are dropped; see `encode_groups` for the rest.
    """

    def cut(row: Row) -> list[list[chat.Piece]]:
        pair = pair_of(row)
        if turns == "first" and not isinstance(pair.prompt, str):
            if any(message["role"] == "assistant" for message in pair.prompt):
                return []
            pair = pair._replace(chosen=pair.chosen[:1], rejected=pair.rejected[:1])
        sides = (pair.chosen, pair.rejected)
        texts = [{**row, "prompt": pair.prompt, "completion": side} for side in sides]
        return [chat.pieces(text, tokenizer) for text in texts]

    return encode_groups(rows, cut, tokenizer, tokens=tokens, too_long=too_long, progress=progress)
