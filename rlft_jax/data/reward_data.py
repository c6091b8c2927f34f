"""The data sets that a reward model learns from and is measured on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlft_jax.data.encoding import Data, Progress, encode_parts
from rlft_jax.data.formatting import Formatter
from rlft_jax.data.mixtures import DatasetSpec
from rlft_jax.data.prompt_split import PromptDatasets, PromptOf, prompt_of_pair
from rlft_jax.data.report import Report
from rlft_jax.data.reward_rows import (
    RewardExample,
    graded_examples,
    graded_prompt,
    pair_examples,
)
from rlft_jax.tasks.problem import Row

Loss = Literal["bradley_terry", "regression"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardData(PromptDatasets):
    """What a reward model learns from: pairs, or graded texts for regression.

    Attributes:
        score_column: For regression, where rows have their score. Pairs with score_chosen and
            score_rejected are two graded texts.
        margin_column: For Bradley-Terry, where rows say how much better the chosen response is.
        source_column: Where rows say what they are from, for figures by source.
    """

    score_column: str = "score"
    margin_column: str | None = None
    source_column: str | None = None

    def read(
        self, formatter: Formatter, loss: Loss, seed: int, progress: Progress | None = None
    ) -> Data[RewardExample]:
        """Reads and encodes it.

        Args:
            formatter: Of the reward model.
            loss: The objective's: "bradley_terry" learns from pairs, "regression" from grades.
            seed: Chooses the prompts that are held out.
            progress: Called with the rows done and the rows there are, of each data set.

        Raises:
            ValueError: If data cannot be read, has another format, or nothing of it is left.
        """
        train, heldout, shared = self.divided_by_prompt(seed, prompt_of(loss))

        def encode(_: DatasetSpec, rows: Sequence[Row]) -> tuple[list[RewardExample], Report]:
            common = {"source_column": self.source_column, "progress": progress}
            if loss == "regression":
                return graded_examples(rows, formatter, score_column=self.score_column, **common)
            return pair_examples(rows, formatter, margin_column=self.margin_column, **common)

        return encode_parts(train, heldout, encode, shared_prompts=shared)


def prompt_of(loss: Loss) -> PromptOf:
    """Finds the prompts of the rows that a loss learns from."""
    return graded_prompt if loss == "regression" else prompt_of_pair


def unused(loss: Loss, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the settings of `RewardData`: those that the chosen loss does not use."""
    idle = {"margin_column": None} if loss == "regression" else {"score_column": "score"}
    return [
        f"config.data.{name} = {settings[name]!r} has no effect with config.objective.loss ="
        f" {loss!r}; leave it at {default!r}."
        for name, default in idle.items()
        if settings[name] != default
    ]
