"""The order of the data: a stream of batches that can be stopped, moved and continued anywhere."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Generic, TypeVar

import grain
import numpy as np

Item = TypeVar("Item")

# Items are in memory: reading ahead in threads would only cost time.
_NO_PREFETCH = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


class Batches(Iterator[tuple[Item, ...]], Generic[Item]):
    """An endless stream of this process's share of each batch, with a position to save.

    The position is a step. It does not depend on the number of processes, so a run may be
    continued on another number of them.
    """

    def __init__(self, batches: grain.MapDataset, settings: dict[str, Any]):
        self._iterator = iter(batches.to_iter_dataset(_NO_PREFETCH))
        self._settings = settings

    def __iter__(self) -> "Batches[Item]":
        return self

    def __next__(self) -> tuple[Item, ...]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Returns the position, as JSON can hold it."""
        return {**self._settings, "position": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` returned.

        Raises:
            ValueError: If it is a position in other data, or in another order.
        """
        differing = [
            f"- {name} was {state.get(name)} and is {value}."
            for name, value in self._settings.items()
            if state.get(name) != value
        ]
        if differing:
            raise ValueError(
                "The saved position is one in other data:\n"
                + "\n".join(differing)
                + "\nRestore what the run was started with, or start a new one."
            )
        self._iterator.set_state(state["position"])


def batches(
    parts: Sequence[Sequence[Item]],
    *,
    prompts: int,
    seed: int,
    weights: Sequence[int | float] | None = None,
    process: int = 0,
    processes: int = 1,
    shuffle: bool = True,
) -> Batches[Item]:
    """Returns batches forever, each epoch of a part in another order.

    Parts repeat before they are cut into batches: a batch at the end of an epoch is filled with the
    first items of the next one, so all batches are full.

    Args:
        parts: The data sets of a mixture; usually just one.
        prompts: Items of this process in a batch. The batch of all processes together is the same
            for any number of them: process 0 has its first items, and so on.
        seed: Of the order.
        weights: How often to draw from each part, in proportion; Grain interleaves them evenly, to
            within a hundredth of the smallest weight. Equal if left out.
        process: This process's number.
        processes: How many there are.
        shuffle: Whether epochs are shuffled, or all in the order of the data.

    Raises:
        ValueError: If a part is empty, or a weight is not above 0.
    """
    weights = [1.0] * len(parts) if weights is None else list(weights)
    if len(weights) != len(parts) or not parts or not all(parts) or not min(weights) > 0:
        raise ValueError(
            f"Data sets of {[len(part) for part in parts]} items cannot be mixed with weights"
            f" {weights}: each needs an item and a weight above 0."
        )
    everything = [
        _order(part, (seed, number) if shuffle else None).repeat()
        for number, part in enumerate(parts)
    ]
    stream = grain.MapDataset.mix(everything, weights) if len(parts) > 1 else everything[0]
    share = slice(process * prompts, (process + 1) * prompts)
    shares = stream.batch(prompts * processes, drop_remainder=True, batch_fn=tuple).map(
        lambda batch: batch[share]
    )
    settings = {
        "examples": [len(part) for part in parts],
        "weights": weights,
        "prompts": prompts * processes,
        "seed": seed,
        "shuffle": shuffle,
    }
    return Batches(shares, settings)


def steps_for(epochs: int | float, *, examples: int, prompts: int) -> int:
    """Returns the steps that see `examples` items at least `epochs` times.

    Args:
        epochs: May be a fraction.
        examples: Items in all parts together: an epoch of a mixture is as many items as it has.
        prompts: Items in a step, of all processes together.

    >>> steps_for(1, examples=10, prompts=4), steps_for(2, examples=10, prompts=4)
    (3, 5)
    """
    return math.ceil(Fraction(str(epochs)) * examples / prompts)


def _order(items: Sequence[Item], seed: tuple[int, int] | None) -> grain.MapDataset:
    """One part, shuffled anew every epoch where there is a seed."""
    source = grain.MapDataset.source(items)  # pyright: ignore[reportArgumentType]
    if seed is None:
        return source
    # Grain adds the epoch to its seed, so neighbouring seeds would share the orders of epochs.
    return source.shuffle(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
