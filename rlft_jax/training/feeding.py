"""From responses, or texts, on the host to a batch on the mesh."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rlft_jax import batch, texts
from rlft_jax.batch import PER_TOKEN, Batch, Responses
from rlft_jax.packing import Packing, first_fit
from rlft_jax.texts import TextBatch, Texts
from rlft_jax.training.sharding import local_rows, place_rows, replicated, row_shards
from rlft_jax.training.step import AnyBatch, Params

Padded: TypeAlias = Responses | Texts
Packed = TypeVar("Packed", Batch, TextBatch)
TOKEN_FIELDS = (
    *("tokens", "types", "segments", "positions", "is_response", "starts", "prompt_starts"),
    *PER_TOKEN,
)


class Feed(NamedTuple):
    """Packs what is padded and puts it on the mesh; with several processes, all do so together.

    Attributes:
        tokens: The most tokens of a row.
        micro_batches: Parts of a step.
        packed: Whether responses, or texts, share rows.
        shares_prompts: Whether those of a group that share a row share their prompt, too.
    """

    mesh: Mesh
    tokens: int
    micro_batches: int = 1
    packed: bool = True
    shares_prompts: bool = False

    def __call__(self, padded: Padded) -> AnyBatch:
        """One optimizer step's batch."""
        packing = self.packing(padded)
        if isinstance(padded, Texts):
            return self.place(texts.pack(padded, packing))
        return self.place(batch.pack(padded, packing))

    def packing(self, padded: Padded) -> Packing:
        """A place for everything, in rows as many and as long as any process needs."""
        shares = self.packed and self.shares_prompts and padded.lengths.shape[1] > 1
        packing = first_fit(
            padded.lengths,
            tokens=self.tokens,
            micro_batches=self.micro_batches,
            packed=self.packed,
            shared=padded.shared if shares else None,
            multiple=row_shards(self.mesh),
            may_shorten=jax.process_count() == 1,  # others might choose another length
            process=jax.process_index(),
        )
        # Few sizes, so that few shapes are compiled.
        most = 1 << (packing.fullest - 1).bit_length() if tells_starts(self.mesh) else 0
        sizes = np.array([*packing.shape, most])
        if jax.process_count() > 1:
            sizes = multihost_utils.process_allgather(sizes).max(0)
        *shape, most = map(int, sizes)
        return packing._replace(shape=tuple(shape), most=most)

    def place(self, packed: Packed) -> Packed:
        """Deals rows over the mesh; what is known of responses or texts goes everywhere."""
        fields = {
            name: place_rows(field, self.mesh) if name in TOKEN_FIELDS else self._everywhere(field)
            for name, field in packed._asdict().items()
            if field is not None
        }
        return type(packed)(**fields)

    def _everywhere(self, field: np.ndarray) -> jax.Array:
        """Joins the prompts of all processes, `[M, P, ...]`."""
        if jax.process_count() > 1:
            parts = multihost_utils.process_allgather(field)
            field = np.concatenate(list(parts), axis=1)
        return jax.make_array_from_callback(
            field.shape, replicated(self.mesh), lambda index: field[index]
        )


def tells_starts(mesh: Mesh) -> bool:
    """Whether the kernels of these devices have to know where responses begin."""
    return mesh.devices.flat[0].platform == "gpu"


def scorer(
    score: Callable[[Params, Batch], jax.Array], feed: Feed
) -> Callable[[Params, Responses], np.ndarray]:
    """Makes a function of rows on the mesh one of padded responses on the host.

    Args:
        score: Gives `[M, R, T]`, dealt over the mesh as rows are.
    """

    def scored(params: Params, responses: Responses) -> np.ndarray:
        packing = feed.packing(responses)
        rows = local_rows(score(params, feed.place(batch.pack(responses, packing))))
        return packing.lift(rows, responses.tokens.shape[-1])

    return scored
