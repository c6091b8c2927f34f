"""From responses on the host to a batch on the mesh."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rlft_jax.batch import PER_TOKEN, Batch, Packing, Responses, first_fit, pack
from rlft_jax.training.sharding import local_rows, place_rows, replicated, row_shards
from rlft_jax.training.step import Params

ROWS = ("tokens", "segments", "positions", "is_response", *PER_TOKEN)


class Feed(NamedTuple):
    """Packs responses and puts them on the mesh; with several processes, all do so together.

    Attributes:
        tokens: Tokens of a row.
        micro_batches: Parts of a step.
        packed: Whether responses share rows.
    """

    mesh: Mesh
    tokens: int
    micro_batches: int = 1
    packed: bool = True

    def __call__(self, responses: Responses) -> Batch:
        """One optimizer step's batch."""
        return self.place(pack(responses, self.packing(responses)))

    def packing(self, responses: Responses) -> Packing:
        """A place for every response, in rows as many and as long as any process needs."""
        packing = first_fit(
            responses.lengths,
            tokens=self.tokens,
            micro_batches=self.micro_batches,
            packed=self.packed,
            multiple=row_shards(self.mesh),
            process=jax.process_index(),
        )
        if jax.process_count() == 1:
            return packing
        shapes = multihost_utils.process_allgather(np.array(packing.shape))
        return packing._replace(shape=tuple(int(n) for n in shapes.max(0)))

    def place(self, batch: Batch) -> Batch:
        """Deals rows over the mesh; what is known of responses goes everywhere."""
        fields = {
            name: place_rows(field, self.mesh) if name in ROWS else self._everywhere(field)
            for name, field in batch._asdict().items()
            if field is not None
        }
        return Batch(**fields)

    def _everywhere(self, field: np.ndarray) -> jax.Array:
        """Joins the prompts of all processes, `[M, P, G]`."""
        if jax.process_count() > 1:
            parts = multihost_utils.process_allgather(field)
            field = np.concatenate(list(parts), axis=1)
        return jax.make_array_from_callback(
            field.shape, replicated(self.mesh), lambda index: field[index]
        )


def scorer(
    score: Callable[[Params, Batch], jax.Array], feed: Feed
) -> Callable[[Params, Responses], np.ndarray]:
    """Makes a function of rows on the mesh one of padded responses on the host.

    Args:
        score: Gives `[M, R, T]`, dealt over the mesh as rows are.
    """

    def scored(params: Params, responses: Responses) -> np.ndarray:
        packing = feed.packing(responses)
        rows = local_rows(score(params, feed.place(pack(responses, packing))))
        return packing.lift(rows, responses.tokens.shape[-1])

    return scored
