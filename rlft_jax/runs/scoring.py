"""A reward model at work: prompts and responses in, scores out, in batches over all devices."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from rlft_jax.data.formatting import Formatter, Preset, TooLong
from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.models.qwen2 import Compute
from rlft_jax.runs import reward_models
from rlft_jax.runs.loading import Places, Structure
from rlft_jax.runs.reward_models import RewardOrigin
from rlft_jax.texts import Text, Texts
from rlft_jax.training.feeding import Feed
from rlft_jax.training.processes import gathered_everywhere
from rlft_jax.training.sharding import make_mesh, replicated, shardings
from rlft_jax.training.step import Params, score_step

NOTHING = Text(np.zeros(0, np.int32), np.zeros(0, np.int32))


@runtime_checkable
class Scores(Protocol):
    """Gives texts their scores, in order.

    With several processes, each gives its own texts, and all call it together.
    """

    def __call__(
        self, texts: Sequence[Text], advance: Callable[[int], object] = ...
    ) -> Float[np.ndarray, " N"]: ...


class Scorer(NamedTuple):
    """A reward model as shapes and places, before its weights are read.

    Attributes:
        where: Places of its parameters.
        rows: Texts scored at once, at most, by all processes together.
    """

    origin: RewardOrigin
    structure: Structure
    where: Places
    mesh: Mesh
    rows: int

    @property
    def formatter(self) -> Formatter:
        """What makes texts of prompts and responses."""
        return self.origin.formatter

    def load(self) -> Params:
        """Reads the weights."""
        return reward_models.load(self.origin, shardings=self.where)

    def scores(self, params: Params) -> Scores:
        """Returns a function that scores texts by these parameters.

        Like lengths share a batch, for little padding; the longest come first, so that what does
        not fit into memory shows at once. All batches have equally many rows, and their lengths
        are those of a ladder, so that few shapes are compiled.
        """
        feed = Feed(self.mesh, tokens=self.formatter.tokens, packed=False)
        compiled = jax.jit(
            functools.partial(
                on_mesh(self.mesh, score_step),
                graph=self.structure.graph,
                score=lambda model, batch: model.scores(batch),
            ),
            out_shardings=replicated(self.mesh),
        )
        size = max(self.rows // jax.process_count(), 1)

        def of_batch(texts: Sequence[Text]) -> np.ndarray:
            whole = [*texts, *[NOTHING] * (size - len(texts))]
            found = np.asarray(compiled(params, {}, feed(Texts.of([[text] for text in whole]))))
            return found.reshape(jax.process_count(), size)[jax.process_index(), : len(texts)]

        def scores(
            texts: Sequence[Text], advance: Callable[[int], object] = lambda count: None
        ) -> Float[np.ndarray, " N"]:
            order = sorted(range(len(texts)), key=lambda i: -len(texts[i].tokens))
            most = gathered_everywhere(np.array([len(texts)])).max()
            found = np.zeros(len(texts), np.float32)
            for start in range(0, int(most), size):
                chosen = order[start : start + size]
                found[chosen] = of_batch([texts[i] for i in chosen])
                advance(len(chosen))
            return found

        return scores


def plan_scorer(
    model: str,
    *,
    mesh: Mesh | None = None,
    compute: Compute | None = None,
    rows: int,
    preset: Preset | None = None,
    tokens: int | None = None,
    too_long: TooLong | None = None,
) -> Scorer:
    """Reads what a reward model is, and decides where it goes.

    Args:
        model: A Hugging Face folder, a name on the hub, or a run directory.
        mesh: Over which its parameters are cut up; if left out, every device gets all of them.
        compute: How to compute with it.
        rows: Texts to score at once, at most.
        preset, tokens, too_long: How it reads texts, where its folder does not say.

    Raises:
        ValueError: If it is no reward model, or does not fit the mesh.
    """
    origin = reward_models.find(model, preset=preset, tokens=tokens, too_long=too_long)
    structure = reward_models.structure(origin.architecture, compute or Compute())
    if mesh is not None:
        return Scorer(origin, structure, shardings(structure.params, mesh), mesh, rows)
    mesh = make_mesh(data=jax.device_count(), fsdp=1)
    where = jax.tree.map(lambda _: replicated(mesh), structure.params)
    return Scorer(origin, structure, where, mesh, rows)
