"""Problems to sample responses to: prompts that fit, with all that their verifier needs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rlft_jax.data import chat
from rlft_jax.data.bad_rows import map_rows
from rlft_jax.data.encoding import Data, encode_parts
from rlft_jax.data.mixtures import DatasetSpec, TaskDatasets
from rlft_jax.data.report import Report
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.tasks.problem import Problem, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problems(TaskDatasets):
    """Problems to sample responses to.

    Without a `task`, the prompt is the row's `prompt` or `messages`.
    """

    def read(self, tokenizer: Tokenizer, tokens: int, seed: int) -> Data[Problem]:
        """Reads them; prompts of more than `tokens` tokens are dropped and counted.

        Args:
            tokenizer: Of the model.
            tokens: The most that a prompt may have.
            seed: Chooses the rows that are held out.

        Raises:
            ValueError: If data cannot be read, has no prompts, or no prompt fits.
        """

        def pose(source: DatasetSpec, rows: Sequence[Row]) -> tuple[list[Problem], Report]:
            sized = map_rows(lambda row: _sized(source.problem(row), tokenizer), rows)
            kept, report = fitting(sized, tokens=tokens)
            if not kept:
                raise ValueError(
                    f"all {report.rows} prompts have more than {tokens} tokens, the shortest"
                    f" {report.lengths.min()}."
                )
            return kept, report

        return encode_parts(*self.divided(seed), pose)


def _sized(problem: Problem, tokenizer: Tokenizer) -> tuple[Problem, int]:
    """A problem and the tokens of its prompt."""
    return problem, len(encode_problem(problem, tokenizer))


def fitting(sized: Sequence[tuple[Problem, int]], *, tokens: int) -> tuple[list[Problem], Report]:
    """Returns the problems whose prompts have at most `tokens` tokens, and what became of all."""
    lengths = np.array([n for _, n in sized], np.int64)
    kept = [problem for problem, n in sized if n <= tokens]
    return kept, Report(
        kept=len(kept),
        too_long=len(sized) - len(kept),
        nothing_to_learn=0,
        truncated=0,
        stops=0,
        tokens=int(lengths[lengths <= tokens].sum()),
        response_tokens=0,
        lengths=lengths,
    )


def encode_problem(problem: Problem, tokenizer: Tokenizer) -> list[int]:
    """Returns the ids to sample from; the row may have `tools` and `chat_template_kwargs`."""
    return chat.encode_prompt(problem.prompt, tokenizer, columns=problem.columns)
