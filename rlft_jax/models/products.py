"""Matrix products that add up in float32, whatever the type of their operands; gradients too."""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

# With more, packing them costs more than packing a kernel.
FEW_ROWS = 32


def product(x: Float[Array, "r d"], kernel: Float[Array, "d e"]) -> Float[Array, "r e"]:
    """`x @ kernel` in the type of `x`.

    Of narrower types than float32 the kernel's gradient is not rounded to them on its way to the
    kernel's own type, so that float32 masters get all of it.
    """
    return x @ kernel if x.dtype == jnp.float32 else _narrow(x, kernel)


def flipped_product(x: Float[Array, "r d"], kernel: Float[Array, "e d"]) -> Float[Array, "r e"]:
    """`x @ kernel.T` in the type of `x`; with few rows fast where weights fit into no cache."""
    if jax.default_backend() != "cpu" or len(x) > FEW_ROWS:
        return _dot(x, kernel, 1, 1).astype(x.dtype)
    # XLA's CPU backend packs a product's second operand anew every time: here that is the small
    # one. It has to lie row by row, or all is widened to float32; the barrier keeps the compiler
    # from turning the product round.
    x = with_layout_constraint(x, Layout((0, 1)))
    return jax.lax.optimization_barrier(_dot(kernel, x, 1, 1)).T.astype(x.dtype)


@jax.custom_vjp
def _narrow(x: Float[Array, "r d"], kernel: Float[Array, "d e"]) -> Float[Array, "r e"]:
    return _dot(x, kernel.astype(x.dtype), 1, 0).astype(x.dtype)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _narrow(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    dx = _dot(dy, kernel.astype(x.dtype), 1, 1).astype(x.dtype)
    return dx, _dot(x, dy, 0, 0, jnp.dtype(jnp.float32)).astype(kernel.dtype)


_narrow.defvjp(_forward, _backward)


def _dot(a: Array, b: Array, axis_a: int, axis_b: int, dtype: jnp.dtype | None = None) -> Array:
    """Sums over one axis of each.

    XLA's CPU backend computes a product that is asked for in bfloat16 as one of float32 operands,
    several times slower than one that is asked for in float32; others round what they have summed.
    """
    if dtype is None and jax.default_backend() == "cpu":
        dtype = jnp.float32
    axes = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=dtype)
