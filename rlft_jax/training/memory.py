"""What a run will need of a device's memory, by kind, before it takes any."""

import math

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from rlft_jax.models import attention, deberta, qwen2, reward
from rlft_jax.models.qwen2 import Compute
from rlft_jax.training.sharding import row_shards
from rlft_jax.training.step import TrainState

FLOAT = 4


def parameter_bytes(tree: PyTree, where: PyTree) -> int:
    """Bytes of arrays on one device."""
    part = lambda x, sharding: math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
    return sum(jax.tree.leaves(jax.tree.map(part, tree, where)))


def state_bytes(shapes: TrainState, where: TrainState) -> dict[str, int]:
    """Bytes of what trains, of its gradients, and of the optimizer, on one device."""
    params = parameter_bytes(shapes.params, where.params)
    return {
        "trainable parameters": params,
        "gradients": params,
        "optimizer": parameter_bytes(shapes.opt_state, where.opt_state),
    }


def activation_bytes(
    a: reward.Architecture,
    compute: Compute,
    mesh: Mesh,
    *,
    responses: int,
    tokens: int,
    has_logits: bool = True,
) -> dict[str, int]:
    """Bytes that the backward pass of a micro-batch keeps, if every response fills a row.

    An estimate: the compiler frees and shares what it can.

    Args:
        responses: Rows of the micro-batch on this process.
        tokens: Tokens of a row.
        has_logits: Whether the head gives logits of tokens; a reward model's gives one number.
    """
    rows = -(-responses // row_shards(mesh))
    size = 2 if compute.dtype == "bfloat16" else FLOAT
    q = kv = a.width
    hidden = 1  # matrices from width to feed_forward
    scores = a.heads * tokens * FLOAT
    if isinstance(a, qwen2.Architecture):
        form = attention.chosen(compute.attention, dtype=compute.dtype, tokens=tokens)
        # Half of them are never made; the other forms keep a sum for each token and head.
        scores = a.heads * FLOAT * (tokens // 2 if form == "xla" else 1)
        q, kv, hidden = a.heads * a.head_width, a.kv_heads * a.head_width, 2
    if isinstance(a, deberta.Architecture):
        scores *= 1 + len(a.terms)
    layer = size * (6 * a.width + 2 * q + 2 * kv + (1 + hidden) * a.feed_forward) + 3 * scores
    products = size * (3 * a.width + q + 2 * kv + hidden * a.feed_forward)
    # With anything to compute again, one layer at a time is whole.
    per_token = {
        "none": layer * a.layers,
        "dots": products * a.layers + layer,
        "full": size * a.width * a.layers + layer,
    }[compute.remat]
    activations = {"activations": rows * tokens * per_token}
    if not has_logits:
        return activations
    chunk = min(compute.tokens_at_once(a.vocabulary), rows * tokens)
    # The head is whole for it where rows are dealt out, and so are its gradients.
    is_cut = mesh.shape["fsdp"] > 1
    copies = size * (is_cut or size < FLOAT) + FLOAT * is_cut
    head = a.vocabulary * a.width // mesh.shape["tensor"]
    return activations | {"head": 3 * chunk * a.vocabulary * FLOAT + copies * head}


def decoding_bytes(a: qwen2.Architecture, *, rows: int) -> int:
    """Bytes of the float32 logits of so many rows' next token, and of the noise that chooses it."""
    return 2 * rows * a.vocabulary * FLOAT


def readable(count: int) -> str:
    """A number of bytes for people.

    >>> readable(1536), readable(3 << 30)
    ('1.5 KiB', '3.0 GiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    place = min(int(math.log(max(count, 1), 1024)), len(units) - 1)
    return f"{count / 1024**place:.1f} {units[place]}"
