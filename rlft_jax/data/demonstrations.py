"""Data sets to imitate, encoded before training starts, so that counts and steps are known."""

import dataclasses
from collections.abc import Callable, Sequence

from rlft_jax.batch import Example
from rlft_jax.data import chat
from rlft_jax.data.encoding import Data, Progress, TooLong, encode_groups, encode_parts
from rlft_jax.data.mixtures import DatasetSpec, TaskDatasets
from rlft_jax.data.report import Report
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstrations(TaskDatasets):
    """Prompts with the completions that a policy learns to imitate.

    Attributes:
        loss_on: Which tokens are trained on: all turns of the assistant, its last one, or all
            there is.
        too_long: What happens to rows of more than `config.batch.tokens` tokens.
    """

    loss_on: chat.LossOn = "assistant"
    too_long: TooLong = "drop"

    def read(
        self, tokenizer: Tokenizer, tokens: int, seed: int, progress: Progress | None = None
    ) -> Data[Example]:
        """Reads and encodes them.

        Args:
            tokenizer: Of the model.
            tokens: The most that an example may have.
            seed: Chooses the rows that are held out.
            progress: Called with the rows done and the rows there are, of each data set.

        Raises:
            ValueError: If data cannot be read, has another format, or nothing of it is left.
        """

        def encode(source: DatasetSpec, rows: Sequence[Row]) -> tuple[list[Example], Report]:
            return encode_rows(
                rows,
                tokenizer,
                tokens=tokens,
                loss_on=self.loss_on,
                too_long=self.too_long,
                prepare=source.demonstration,
                progress=progress,
            )

        return encode_parts(*self.divided(seed), encode)


def encode_rows(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    tokens: int,
    loss_on: chat.LossOn = "assistant",
    too_long: TooLong = "drop",
    prepare: Callable[[Row], Row] = lambda row: row,
    progress: Progress | None = None,
) -> tuple[list[Example], Report]:
    """Returns the rows that can be learnt from, encoded, in their order, and what became of all.

    Args:
        rows: In the formats of `chat.pieces`, at least after `prepare`.
        tokenizer: Of the model.
        tokens: The most that an example may have.
        loss_on: Which tokens are trained on.
        too_long: "drop" rows of more than `tokens` tokens (half an answer is a bad example), or
            "truncate" them at their end, or take one for an "error".
        prepare: Makes a row in a known format of one that is not.
        progress: Called with the rows done and the rows there are.

    Raises:
        ValueError: If a row cannot be encoded, naming the first few such rows, or is too long
            where that is an error.
    """
    cut = lambda row: [chat.pieces(prepare(row), tokenizer, loss_on=loss_on)]
    groups, report = encode_groups(
        rows, cut, tokenizer, tokens=tokens, too_long=too_long, progress=progress
    )
    return [example for (example,) in groups], report
