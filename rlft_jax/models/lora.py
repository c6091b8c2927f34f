"""Low-rank adapters (Hu et al., 2021, arXiv:2106.09685), with PEFT's conventions.

An adapted projection computes `x @ kernel + scale * dropout(x) @ a @ b`. `b` starts at zero, so an
adapted model starts out equal to its base. The base stays frozen: with `split`, the adapter is
all that trains, and the base alone is the reference policy.
"""

import dataclasses
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

ALL = "all-linear"
PROJECTIONS = {
    "q_proj": ("attention", "q"),
    "k_proj": ("attention", "k"),
    "v_proj": ("attention", "v"),
    "o_proj": ("attention", "o"),
    "gate_proj": ("mlp", "gate"),
    "up_proj": ("mlp", "up"),
    "down_proj": ("mlp", "down"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What low-rank adapters are like.

    Attributes:
        rank: Width of the bottleneck.
        alpha: The update is scaled by alpha / rank.
        dropout: Share of an adapter's inputs dropped while training by SFT.
        rslora: Scale by alpha / sqrt(rank) instead (Kalajdzievski, 2023, arXiv:2312.03732).
        targets: Names of projections as in Hugging Face, or "all-linear".
    """

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.0
    rslora: bool = False
    targets: str | tuple[str, ...] = ALL

    @property
    def scale(self) -> float:
        """What an adapter's output is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def names(self) -> tuple[str, ...]:
        """The projections that are adapted.

        Raises:
            ValueError: If one is not a projection of a layer; the embedding and the head, which
                may be one matrix, take no adapter.
        """
        wrong = problems(self.targets)
        if wrong:
            raise ValueError(*wrong)
        return _named(self.targets)


def problems(targets: str | Sequence[str]) -> list[str]:
    """What is wrong with the projections that a config names."""
    names = _named(targets)
    if names and not {*names} - {*PROJECTIONS}:
        return []
    return [
        f"config.lora.targets = {targets!r} cannot be adapted; choose among"
        f" {', '.join(PROJECTIONS)}, or {ALL}. Embeddings and heads take no adapter: where they"
        " are one tied matrix, merging would change both."
    ]


def _named(targets: str | Sequence[str]) -> tuple[str, ...]:
    if targets == ALL:
        return tuple(PROJECTIONS)
    return (targets,) if isinstance(targets, str) else tuple(targets)


class LoRAParam(nnx.Param):
    """A parameter of an adapter, so that a filter can tell it from the base."""


class LoRA(nnx.Module):
    """The adapter of one projection, stacked over layers like the projection itself."""

    def __init__(
        self,
        layers: int,
        d_in: int,
        d_out: int,
        *,
        rank: int,
        scale: float,
        dropout: float,
        key: Key[Array, ""],
    ):
        bound = 1 / math.sqrt(d_in)  # PEFT's Kaiming uniform with a = sqrt(5)
        self.a = LoRAParam(
            jax.random.uniform(key, (layers, d_in, rank), minval=-bound, maxval=bound)
        )
        self.b = LoRAParam(jnp.zeros((layers, rank, d_out)))
        self.scale = scale
        self.dropout = dropout

    def __call__(self, x: Float[Array, "*r d"], key: Key[Array, ""] | None) -> Array:
        if key is not None and self.dropout:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return self.scale * (x @ self.a.astype(x.dtype)) @ self.b.astype(x.dtype)


def add(model: nnx.Module, settings: Settings, *, key: Key[Array, ""]) -> None:
    """Attaches adapters to a model, in place.

    Raises:
        ValueError: If a target is not a projection of a layer.
    """
    for i, name in enumerate(settings.names):
        linear = operator.attrgetter(".".join(("layers", *PROJECTIONS[name])))(model)
        layers, d_in, d_out = linear.kernel.shape
        linear.lora = LoRA(
            layers,
            d_in,
            d_out,
            rank=settings.rank,
            scale=settings.scale,
            dropout=settings.dropout,
            key=jax.random.fold_in(key, i),
        )
