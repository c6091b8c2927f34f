"""How to sample."""

import dataclasses
import functools
from collections.abc import Sequence

from rlft_jax.sampling.cache import CacheDtype
from rlft_jax.sampling.filters import Filter, keep_min_p, keep_top_k, keep_top_p

# As many times the rows of a batch are best asked for at once: while samples wait, no row is idle.
QUEUE = 4


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How to sample; filters apply in the order and with the meaning of `transformers`.

    Attributes:
        max_new_tokens: The most tokens of a completion.
        temperature: 0 takes the likeliest token.
        top_k: Sample among the k likeliest tokens; 0 for all.
        top_p: Sample among the likeliest tokens that together have this probability.
        min_p: Sample among tokens at least this share as likely as the likeliest.
        repetition_penalty: Divides the positive and multiplies the negative logits of tokens
            that occurred in prompt or completion.
        stop_ids: A completion ends with the first of these tokens, which belongs to it.
        stop_strings: A completion ends with the token that completes one of these in its text.
        batch_rows: Samples decoded at once, at most, others following those that end; changes
            memory and speed only.
        chunk: Tokens between two looks at who has finished; changes speed only.
        cache_dtype: What keys and values are kept in: as computed if None. "int8" takes about
            half of bfloat16's memory; the README tells at what cost.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    batch_rows: int = 256
    chunk: int = 16
    cache_dtype: CacheDtype | None = None

    def __post_init__(self):
        is_filtered = self.top_k or self.top_p != 1 or self.min_p
        problems = {
            f"max_new_tokens = {self.max_new_tokens} must be at least 1.": self.max_new_tokens < 1,
            f"temperature = {self.temperature} must be at least 0.": not self.temperature >= 0,
            f"top_k = {self.top_k} must be at least 1, or 0 for all tokens.": self.top_k < 0,
            f"top_p = {self.top_p} must be above 0 and at most 1.": not 0 < self.top_p <= 1,
            f"min_p = {self.min_p} must be from 0 to 1.": not 0 <= self.min_p <= 1,
            f"repetition_penalty = {self.repetition_penalty} must be above 0.": (
                not self.repetition_penalty > 0
            ),
            f"top_k = {self.top_k}, top_p = {self.top_p} and min_p = {self.min_p} do nothing at"
            " temperature = 0. Leave them at 0, 1 and 0, or raise the temperature.": (
                self.temperature == 0 and bool(is_filtered)
            ),
            "stop_strings holds an empty string. Remove it.": "" in self.stop_strings,
            f"batch_rows = {self.batch_rows} must be at least 1.": self.batch_rows < 1,
            f"chunk = {self.chunk} must be at least 1.": self.chunk < 1,
        }
        refuse([problem for problem, is_so in problems.items() if is_so])

    @property
    def filters(self) -> list[Filter]:
        """The filters that are switched on, in order."""
        chosen = [
            functools.partial(keep_top_k, k=self.top_k) if self.top_k else None,
            functools.partial(keep_top_p, p=self.top_p) if self.top_p < 1 else None,
            functools.partial(keep_min_p, p=self.min_p) if self.min_p else None,
        ]
        return [keep for keep in chosen if keep is not None]

    @property
    def steps(self) -> int:
        """Tokens of a chunk, evened out so that the last chunk has little to spare."""
        chunks = -(-self.max_new_tokens // self.chunk)
        return -(-self.max_new_tokens // chunks)


def refuse(problems: Sequence[str]) -> None:
    """Raises a `ValueError` of all problems, if there are any."""
    if problems:
        raise ValueError("This cannot be sampled:\n- " + "\n- ".join(problems))
