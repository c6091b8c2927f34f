"""What a sampler's rows said, and where each came to its end; on the host."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Completion(NamedTuple):
    """What followed a prompt.

    Attributes:
        tokens: With the stop token that ended it, if one did.
        logprobs: log p(token), in nats, under the model's distribution at the sampling
            temperature (at 1 if greedy), before any penalty or filter: what the trainer scores.
        is_finished: Whether it came to its end, at a stop token or string; otherwise
            `max_new_tokens` cut it off.
    """

    tokens: Int[np.ndarray, " T"]
    logprobs: Float[np.ndarray, " T"]
    is_finished: bool


class Transcript:
    """What the rows of a group have said so far, and where they ended."""

    def __init__(
        self,
        prompts: int,
        samples: int,
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        stop_strings: Sequence[str],
        decode: Callable[[Sequence[int]], str] | None,
    ):
        self._max_new_tokens, self._stop_ids = max_new_tokens, tuple(stop_ids)
        self._stop_strings, self._decode = tuple(stop_strings), decode
        self._tokens = np.zeros((prompts, samples, 0), np.int32)
        self._logprobs = np.zeros((prompts, samples, 0), np.float32)
        # Tokens of a finished row; 0 while it goes on.
        self._lengths = np.zeros((prompts, samples), np.int32)

    @property
    def is_complete(self) -> bool:
        """Whether all rows have ended before their time."""
        return bool(self._lengths.all())

    def extend(
        self, tokens: Int[np.ndarray, "B G s"], logprobs: Float[np.ndarray, "B G s"]
    ) -> None:
        """Takes a chunk, but no rows that only fill up the batch, and no tokens beyond the most."""
        B, _, known = self._tokens.shape
        tokens = tokens[:B, :, : self._max_new_tokens - known]
        logprobs = logprobs[:B, :, : self._max_new_tokens - known]
        is_open = self._lengths == 0
        is_stop = np.isin(tokens, self._stop_ids) & is_open[..., None]
        first = known + is_stop.argmax(-1) + 1
        self._lengths = np.where(is_stop.any(-1), first, self._lengths)
        self._tokens = np.concatenate([self._tokens, tokens], axis=-1)
        self._logprobs = np.concatenate([self._logprobs, logprobs], axis=-1)
        if self._stop_strings:
            for place in zip(*np.nonzero(is_open)):
                self._lengths[place] = self._end_of_text(place, known)

    def _end_of_text(self, place: tuple, known: int) -> int:
        """Tokens up to the end of a stop string, where none ended in the first `known` ones."""
        assert self._decode is not None
        length = int(self._lengths[place])
        tokens = self._tokens[place][: length or None].tolist()
        has_stop = lambda text: any(stop in text for stop in self._stop_strings)
        if not has_stop(self._decode(tokens)):
            return length
        ends = range(known + 1, len(tokens) + 1)
        return next(end for end in ends if has_stop(self._decode(tokens[:end])))

    def completions(self) -> Iterator[list[Completion]]:
        """The completions of each prompt."""
        for tokens, logprobs, lengths in zip(self._tokens, self._logprobs, self._lengths):
            yield [
                Completion(t[: n or None], logp[: n or None], bool(n))
                for t, logp, n in zip(tokens, logprobs, lengths)
            ]
