"""Log-probabilities from hidden states: the head and the softmax as one function.

Its gradient is written out, for speed: softmax minus the one that was chosen, as operands of the
type that the model computes in, summed in float32. Logits exist for one chunk of positions at a
time, on the way forward and on the way back.

On several devices, each scores its own rows, and its own part of the vocabulary if that is dealt
over `tensor`. The head comes there once, in the type that the model computes in, and what devices
found is added up once: chunks wait for no other device, so each leaves out its own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Shaped

from rlft_jax.models.on_mesh import divided, row_axes, tensor_axis

# Chunks that a device's positions are cut into at least, so that those with nothing to score are
# left out, and the positions that a chunk has at least for it. On two CPU cores eight chunks take
# 1% longer than one where all positions are scored; other devices were not measured.
CHUNKS, POSITIONS = 8, 256


class Scores(NamedTuple):
    """What a model says of given tokens, in nats; only the log-probabilities have a gradient.

    Attributes:
        entropy: Of the distribution that each token was drawn from; 0 unless asked for.
        is_top: Whether no token was likelier.
    """

    logprobs: Float[Array, "R T"]
    entropy: Float[Array, "R T"]
    is_top: Bool[Array, "R T"]


class Settings(NamedTuple):
    """Settings of scores.

    Attributes:
        room: Positions whose logits may exist at once on a device. If that is all of them, logits
            are kept for the gradient.
        temperature: Logits are divided by it.
        with_entropy: Whether to compute entropies.
    """

    room: int
    temperature: float = 1.0
    with_entropy: bool = False


def logits(hidden: Float[Array, "r D"], head: Float[Array, "V D"]) -> Float[Array, "r V"]:
    """Returns float32 logits; mind their size."""
    head = head.astype(hidden.dtype)
    return jnp.einsum("rd,vd->rv", hidden, head, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def scores(
    hidden: Float[Array, "R T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "R T"],
    is_scored: Bool[Array, "R T"],
    how: Settings,
) -> Scores:
    """Scores a target at each position that asks for it; all others have 0.

    What is not scored costs nothing but for what is left of a chunk: scored positions go first.
    """
    return _forward(hidden, head, targets, is_scored, how, for_gradient=False)[0]


def _forward(hidden, head, targets, is_scored, how, for_gradient=True):
    by_row, by_token = row_axes(len(hidden)), tensor_axis(len(head))

    def score(hidden_RTD, head_VD, targets_RT, is_scored_RT):
        chunks = Chunks(is_scored_RT, how.room)
        keeps_logits = for_gradient and chunks.fit_at_once

        def of_chunk(_, hidden_rD, targets_r):
            logits_rV = logits(hidden_rD, head_VD) / how.temperature
            part = _part(logits_rV, targets_r, how.with_entropy)
            return None, (part, logits_rV if keeps_logits else None)

        targets_nr = chunks.split(targets_RT) - _first_token(head_VD, by_token)
        _, (part, logits_nrV) = chunks.scan(of_chunk, None, chunks.split(hidden_RTD), targets_nr)
        whole = _whole(part, by_token)
        above, rest = whole.chosen - whole.top, jnp.log(whole.total)
        entropy = rest - whole.moment / whole.total if how.with_entropy else jnp.zeros_like(rest)
        found = jax.tree.map(chunks.join, Scores(above - rest, entropy, above >= 0))
        return found, whole.top + rest, logits_nrV

    row, chunk = P(by_row), P(None, by_row)
    run = divided(
        score,
        (row, P(by_token), row, row),
        (row, chunk, P(None, by_row, by_token)),
    )
    found, *of_chunks = run(hidden, head.astype(hidden.dtype), targets, is_scored)
    return found, (hidden, head, targets, is_scored, *of_chunks)


def _backward(how, kept, gradient):
    hidden, head, targets, is_scored, *of_chunks = kept
    by_row, by_token = row_axes(len(hidden)), tensor_axis(len(head))
    sums = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def slopes(
        hidden_RTD, head_VD, targets_RT, is_scored_RT, gradient_RT, log_total_nr, logits_nrV
    ):
        chunks = Chunks(is_scored_RT, how.room)

        def of_chunk(to_head_VD, hidden_rD, targets_r, gradient_r, log_total_r, logits_rV):
            if logits_rV is None:
                logits_rV = logits(hidden_rD, head_VD) / how.temperature
            is_chosen_rV = jnp.arange(len(head_VD))[None] == targets_r[:, None]
            slope_rV = is_chosen_rV - jnp.exp(logits_rV - log_total_r[:, None])
            slope_rV = (slope_rV * gradient_r[:, None]).astype(hidden_rD.dtype)
            to_hidden_rD = sums("rv,vd->rd", slope_rV, head_VD)
            return to_head_VD + sums("rv,rd->vd", slope_rV, hidden_rD), to_hidden_rD

        to_head_VD, to_hidden_nrD = chunks.scan(
            of_chunk,
            jnp.zeros(head_VD.shape, jnp.float32),
            chunks.split(hidden_RTD),
            chunks.split(targets_RT) - _first_token(head_VD, by_token),
            chunks.split(jnp.where(is_scored_RT, gradient_RT, 0) / how.temperature),
            log_total_nr,
            logits_nrV,
        )
        to_hidden_RTD = _total(chunks.join(to_hidden_nrD), by_token)
        return to_hidden_RTD.astype(hidden_RTD.dtype), _total(to_head_VD, by_row)

    row, chunk = P(by_row), P(None, by_row)
    run = divided(
        slopes,
        (row, P(by_token), row, row, row, chunk, P(None, by_row, by_token)),
        (row, P(by_token)),
    )
    to_hidden, to_head = run(
        hidden, head.astype(hidden.dtype), targets, is_scored, gradient.logprobs, *of_chunks
    )
    return to_hidden, to_head.astype(head.dtype), None, None


scores.defvjp(_forward, _backward)


class Part(NamedTuple):
    """What a part of the vocabulary says.

    Attributes:
        top: The largest logit.
        total: Sum of the exponentials of how far logits lie above `top`.
        moment: Sum of these distances, each times its exponential; 0 unless asked for.
        chosen: The target's logit; 0 where the target is not of the part.
    """

    top: Float[Array, "*n r"]
    total: Float[Array, "*n r"]
    moment: Float[Array, "*n r"]
    chosen: Float[Array, "*n r"]


def _part(logits_rV: Float[Array, "r V"], targets: Int[Array, " r"], with_moment: bool) -> Part:
    top_r = logits_rV.max(-1)
    above_rV = logits_rV - top_r[:, None]
    weights_rV = jnp.exp(above_rV)
    moment_r = (weights_rV * above_rV).sum(-1) if with_moment else jnp.zeros_like(top_r)
    V = logits_rV.shape[1]
    found_r1 = jnp.take_along_axis(logits_rV, jnp.clip(targets, 0, V - 1)[:, None], axis=-1)
    chosen_r = jnp.where((targets >= 0) & (targets < V), found_r1[:, 0], 0)
    return Part(top_r, weights_rV.sum(-1), moment_r, chosen_r)


def _whole(part: Part, axis: str | None) -> Part:
    """What all parts say together."""
    if axis is None:
        return part
    top = jax.lax.pmax(part.top, axis)
    above = part.top - top
    share = jnp.exp(above)
    moment = share * (part.moment + above * part.total)
    return Part(top, *jax.lax.psum((share * part.total, moment, part.chosen), axis))


def _total(x: Array, axes: str | tuple[str, ...] | None) -> Array:
    return x if axes is None else jax.lax.psum(x, axes)


def _first_token(head: Float[Array, "v D"], axis: str | None) -> Int[Array, ""] | int:
    """The first of the tokens that this device has."""
    return 0 if axis is None else jax.lax.axis_index(axis) * len(head)


class Chunks:
    """A device's positions in chunks, those to score first; chunks with none are not computed.

    Attributes:
        fit_at_once: Whether the logits of all chunks may exist at once.
    """

    def __init__(self, is_scored: Bool[Array, "R T"], room: int):
        N = is_scored.size
        self.fit_at_once = room >= N
        self._count = max(min(-(-N // room), N), min(CHUNKS, N // POSITIONS))
        self._width = -(-N // self._count)
        self._is_scored_RT = is_scored
        self._order_N = jnp.argsort(~is_scored.ravel())
        self._back_N = jnp.argsort(self._order_N)

    def split(self, x: Shaped[Array, "R T *rest"]) -> Shaped[Array, "n r *rest"]:
        """Chunks of positions; the last one is filled up with 0."""
        (R, T), rest = x.shape[:2], x.shape[2:]
        x = x.reshape(R * T, *rest)[self._order_N]
        x = jnp.pad(x, [(0, self._count * self._width - R * T)] + [(0, 0)] * len(rest))
        return x.reshape(self._count, self._width, *rest)

    def join(self, x: Shaped[Array, "n r *rest"]) -> Shaped[Array, "R T *rest"]:
        """The inverse of `split`, with 0 for what is not scored."""
        (R, T), rest = self._is_scored_RT.shape, x.shape[2:]
        x = x.reshape(-1, *rest)[self._back_N].reshape(R, T, *rest)
        is_scored = self._is_scored_RT.reshape(R, T, *[1] * len(rest))
        return jnp.where(is_scored, x, jnp.zeros_like(x))

    def scan(self, function: Callable, carry: Any, *chunks: Any) -> tuple[Any, Any]:
        """`jax.lax.scan` that leaves the carry as it is, and returns 0, for chunks left out."""

        def step(carry, x):
            is_needed, *chunk = x
            shapes = jax.eval_shape(function, carry, *chunk)[1]
            zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            skip = lambda carry, *_: (carry, zeros())
            return jax.lax.cond(is_needed, function, skip, carry, *chunk)

        is_needed_n = jnp.arange(self._count) * self._width < self._is_scored_RT.sum()
        unroll = self._count if self.fit_at_once else 1
        return jax.lax.scan(step, carry, (is_needed_n, *chunks), unroll=unroll)
