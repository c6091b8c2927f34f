"""The rows of a decoding batch: who holds which, and how many of how many columns there are."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rlft_jax.sampling.decoding import Prompts, Rows
from rlft_jax.sampling.programs import Programs
from rlft_jax.sampling.weights import Weights

# Fewer columns, or rows, than this are not worth another compiled program.
FIRST_COLUMNS = 64
FEWEST_ROWS = 8
# A table is filled in about so many parts, so that filling one row costs little.
PARTS = 8
FREE = -1


class Waiting(NamedTuple):
    """A sample that wants a row.

    Attributes:
        sample: Its number among all.
        source: Place of its prompt among those that were read with it.
        length: Tokens of the prompt.
        request, number: Of the prompt, and of the sample among those of its prompt; what its
            randomness comes from.
    """

    sample: int
    source: int
    length: int
    request: int
    number: int


class Said(NamedTuple):
    """What samples at work said in a chunk."""

    samples: Int[np.ndarray, " n"]
    tokens: Int[np.ndarray, "n s"]
    logprobs: Float[np.ndarray, "n s"]


class Table:
    """Rows on the devices.

    Args:
        rows: How many.
        columns: The most that a prompt and its completion need, with the chunk they end in.
        shards: Devices that share the rows, equally.
        steps: Tokens of a chunk.
    """

    def __init__(self, programs: Programs, *, rows: int, columns: int, shards: int, steps: int):
        self._programs, self._shards, self._steps = programs, shards, steps
        self._most = columns
        self._rows: Rows | None = None
        self._held = np.full(-(-rows // shards) * shards, FREE)
        self._lengths = np.zeros(len(self._held), np.int64)  # of what the rows hold

    def __len__(self) -> int:
        return len(self._held)

    @property
    def free(self) -> int:
        """Rows that are."""
        return int((self._held == FREE).sum())

    def admit(self, prompts: Prompts, waiting: Sequence[Waiting], seed: int) -> None:
        """Gives rows to samples of prompts, of which there are no more than free rows."""
        width = prompts.keys[0].shape[-1]
        if self._rows is None:
            columns = self._columns(width)
            self._rows = self._programs.free_rows(prompts, rows=len(self), columns=columns)
        self._widen(width)
        places = np.flatnonzero(self._held == FREE)[: len(waiting)]
        size = -(-len(self) // PARTS)
        for start in range(0, len(waiting), size):
            part = slice(start, start + size)
            arrays = self._padded(places[part], waiting[part], size)
            self._rows = self._programs.admit(self._rows, prompts, *arrays, np.uint32(seed))
        self._held[places] = [sample.sample for sample in waiting]
        self._lengths[places] = [sample.length for sample in waiting]

    def decode(self, weights: Weights) -> Said:
        """Decodes a chunk in all rows."""
        is_held = self._held != FREE
        self._widen(int(self._lengths[is_held].max()) + self._steps)
        self._rows, *outputs = self._programs.decode(weights, self._rows)
        self._lengths += self._steps
        tokens, logprobs = jax.device_get(outputs)
        return Said(self._held[is_held], tokens[is_held], logprobs[is_held])

    def release(self, samples: Int[np.ndarray, " n"]) -> None:
        """Frees the rows of samples that are over."""
        self._held[np.isin(self._held, samples)] = FREE

    def shrink(self) -> None:
        """Halves the table while all that is held fits into half of it."""
        if self._shards > 1:
            return  # rows would move from device to device
        held, size = int((self._held != FREE).sum()), len(self)
        while -(-size // 2) >= max(held, FEWEST_ROWS):
            size = -(-size // 2)
        if size < len(self):
            places = np.argsort(self._held == FREE, kind="stable")[:size]  # first those held
            self._rows = self._programs.chosen(self._rows, places)
            self._held, self._lengths = self._held[places], self._lengths[places]

    def _widen(self, columns: int) -> None:
        """Makes room for so many columns."""
        assert self._rows is not None
        if columns > self._rows.keys[0].shape[-1]:
            self._rows = self._programs.widened(self._rows, columns=self._columns(columns))

    def _columns(self, needed: int) -> int:
        """Columns to have where so many are needed: two sizes an octave, and never useless ones."""
        columns = FIRST_COLUMNS
        while columns < needed:
            columns *= 2
        if columns * 3 // 4 >= max(needed, FIRST_COLUMNS):
            columns = columns * 3 // 4
        return min(columns, self._most)

    def _padded(
        self, places: Int[np.ndarray, " n"], waiting: Sequence[Waiting], size: int
    ) -> list[np.ndarray]:
        """Arguments of `admit`, with samples that get no row up to its size."""
        spare = (0, size - len(waiting))
        columns = np.array([(w.source, w.request, w.number) for w in waiting]).T
        sources, requests, numbers = (np.pad(column, spare) for column in columns)
        places = np.pad(places, spare, constant_values=len(self))
        types = (np.int32, np.int32, np.uint32, np.int32)
        return [x.astype(t) for x, t in zip((places, sources, requests, numbers), types)]
