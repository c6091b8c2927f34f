"""What samples said so far, and where each came to its end; on the host."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


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
    """What each of some samples said.

    Attributes:
        lengths: Tokens of each completion so far.
    """

    def __init__(
        self,
        samples: int,
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        stop_strings: Sequence[str],
        decode: Callable[[Sequence[int]], str] | None,
    ):
        self._stop_ids, self._stop_strings = tuple(stop_ids), tuple(stop_strings)
        self._decode = decode
        self._tokens = np.zeros((samples, max_new_tokens), np.int32)
        self._logprobs = np.zeros((samples, max_new_tokens), np.float32)
        self._is_finished = np.zeros(samples, bool)
        self.lengths = np.zeros(samples, np.int32)

    def extend(
        self,
        samples: Int[np.ndarray, " n"],
        tokens: Int[np.ndarray, "n s"],
        logprobs: Float[np.ndarray, "n s"],
    ) -> Bool[np.ndarray, " n"]:
        """Takes what some of the samples said next; returns which of them are over."""
        most = self._tokens.shape[1]
        known = self.lengths[samples]
        column = known[:, None] + np.arange(tokens.shape[1])
        is_room = column < most
        places = np.broadcast_to(samples[:, None], column.shape)[is_room], column[is_room]
        self._tokens[places], self._logprobs[places] = tokens[is_room], logprobs[is_room]
        is_stop = np.isin(tokens, self._stop_ids) & is_room
        self._is_finished[samples] = is_stop.any(-1)
        end = known + np.where(is_stop.any(-1), is_stop.argmax(-1) + 1, tokens.shape[1])
        self.lengths[samples] = np.minimum(end, most)
        if self._stop_strings:
            for sample, start in zip(samples.tolist(), known.tolist()):
                self._end_at_text(sample, start)
        return self._is_finished[samples] | (self.lengths[samples] == most)

    def _end_at_text(self, sample: int, known: int) -> None:
        """Ends a sample at a stop string, if none was in its first `known` tokens."""
        assert self._decode is not None
        tokens = self._tokens[sample, : self.lengths[sample]].tolist()
        has_stop = lambda text: any(stop in text for stop in self._stop_strings)
        if has_stop(self._decode(tokens)):
            ends = range(known + 1, len(tokens) + 1)
            self.lengths[sample] = next(n for n in ends if has_stop(self._decode(tokens[:n])))
            self._is_finished[sample] = True

    def completions(self) -> list[Completion]:
        """What each sample said."""
        return [
            Completion(tokens[:n].copy(), logprobs[:n].copy(), bool(is_finished))
            for tokens, logprobs, n, is_finished in zip(
                self._tokens, self._logprobs, self.lengths, self._is_finished
            )
        ]
