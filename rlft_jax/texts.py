"""What reward models see: whole texts, padded on the host and packed for the devices.

The counterpart of `batch` for models that score texts instead of writing them. A text has another
tokenizer's ids, and is laid into rows by the same `Packing`: texts to one prompt share a
micro-batch, and none spans rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlft_jax.packing import Packing, shared_start


class Text(NamedTuple):
    """One text as a reward model reads it: ids, and the number of the segment of each."""

    tokens: Int[np.ndarray, " T"]
    types: Int[np.ndarray, " T"]


class Texts(NamedTuple):
    """G texts to each of B prompts, on the host, padded on the right.

    Attributes:
        types: Which segment a token belongs to, for encoders that tell prompt from response.
        lengths: Tokens of each text; 0 where there is none.
        targets: Scores to learn, for regression.
        margins: How much better the first text of a pair is, where that is known.
    """

    tokens: Int[np.ndarray, "B G T"]
    types: Int[np.ndarray, "B G T"]
    lengths: Int[np.ndarray, "B G"]
    targets: Float[np.ndarray, "B G"] | None = None
    margins: Float[np.ndarray, " B"] | None = None

    @property
    def shared(self) -> Int[np.ndarray, " B"]:
        """Leading tokens of all texts of a group that a decoder may compute once for all."""
        return shared_start(self.tokens, self.lengths)

    @classmethod
    def of(cls, groups: Sequence[Sequence[Text]]) -> "Texts":
        """Pads groups of texts, one group per prompt, all of one size G."""
        B, G = len(groups), len(groups[0])
        lengths = np.array([[len(text.tokens) for text in group] for group in groups], np.int32)
        T = int(lengths.max())
        tokens, types = np.zeros((B, G, T), np.int32), np.zeros((B, G, T), np.int32)
        for b, group in enumerate(groups):
            for g, text in enumerate(group):
                tokens[b, g, : lengths[b, g]] = text.tokens
                types[b, g, : lengths[b, g]] = text.types
        return cls(tokens, types, lengths)


class TextBatch(NamedTuple):
    """What one step of a reward model sees: M micro-batches of R rows of T tokens.

    Objectives see these fields without their first axis.

    Attributes:
        segments: Which text of its micro-batch a token belongs to, counted from 1 in the order
            of `is_real`; 0 is padding, which no token attends to.
        positions: Place of each token in its text, from 0.
        is_real: False where a text is filled in to make shapes even.
        starts, prompt_starts: As of a `Batch`.
    """

    tokens: Int[Array, "*M R T"]
    types: Int[Array, "*M R T"]
    segments: Int[Array, "*M R T"]
    positions: Int[Array, "*M R T"]
    is_real: Bool[Array, "*M P G"]
    starts: Int[Array, "*M R S"] | None = None
    prompt_starts: Int[Array, "*M R T"] | None = None
    targets: Float[Array, "*M P G"] | None = None
    margins: Float[Array, "*M P"] | None = None

    def first(self, states: Float[Array, "R T D"]) -> Float[Array, "P G D"]:
        """The state at the first token of every text; of a text that is not real, any state."""
        return self._at(states, self.positions == 0)

    def last(self, states: Float[Array, "R T D"]) -> Float[Array, "P G D"]:
        """The state at the last token of every text; of a text that is not real, any state."""
        after = jnp.pad(self.segments[:, 1:], ((0, 0), (0, 1)))
        return self._at(states, self.segments != after)

    def _at(self, states: Float[Array, "R T D"], where: Bool[Array, "R T"]) -> Array:
        P, G = self.is_real.shape
        places = jnp.where(
            where & (self.segments > 0), jnp.arange(where.size).reshape(where.shape), 0
        )
        place = jax.ops.segment_max(places.ravel(), self.segments.ravel(), P * G + 1)[1:]
        flat = states.reshape(-1, states.shape[-1])
        return flat[jnp.maximum(place, 0)].reshape(P, G, -1)


def pack(texts: Texts, packing: Packing) -> TextBatch:
    """Lays texts into the rows of a batch, as `packing` says; the result is on the host."""
    # NumPy's arrays stand in for the devices' until somebody puts them there.
    fields: dict[str, Any] = {
        "tokens": packing.lay(texts.tokens),
        "types": packing.lay(texts.types),
        "segments": packing.segments,
        "positions": packing.positions,
        "is_real": packing.deal(texts.lengths > 0),
        "starts": packing.starts if packing.most else None,
        "prompt_starts": packing.prompt_starts if packing.shares else None,
        "targets": None if texts.targets is None else packing.deal(texts.targets),
        "margins": None if texts.margins is None else packing.deal(texts.margins),
    }
    return TextBatch(**fields)
