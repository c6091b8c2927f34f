"""What the machine itself can do: one large matrix product, and one large copy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlft_jax.bench.timing import repeated

# Large enough to fill a device, small enough to take a moment.
SIDE = {"cpu": 2048}
LARGE_SIDE = 8192
COPIED = {"cpu": 256 << 20}
LARGE_COPIED = 2 << 30
TIMES = 10


class Ceilings(NamedTuple):
    """Of one device, by measurement.

    Attributes:
        float32, bfloat16: FLOP/s of a square matrix product of that type with a float32 result,
            at JAX's default precision.
        bandwidth: Bytes per second, read and written together.
    """

    float32: float
    bfloat16: float
    bandwidth: float

    def flops(self, dtype: str) -> float:
        """The ceiling of arithmetic in a type."""
        return {"float32": self.float32, "bfloat16": self.bfloat16}[dtype]


def measure() -> Ceilings:
    """Measures the default device; the best of a few times, as a ceiling should be."""
    platform = jax.default_backend()
    side, copied = SIDE.get(platform, LARGE_SIDE), COPIED.get(platform, LARGE_COPIED)
    return Ceilings(
        product_flops(side, "float32"), product_flops(side, "bfloat16"), copy_bytes(copied)
    )


def product_flops(side: int, dtype: str, *, times: int = TIMES) -> float:
    """FLOP/s of the product of two matrices of `side` x `side`."""
    x = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    return 2 * side**3 / repeated(lambda: product(x, x), times=times).least


def copy_bytes(size: int, *, times: int = TIMES) -> float:
    """Bytes per second, read and written together, of going once over an array of `size` bytes."""
    scaled = jax.jit(lambda x: x * 0.5, donate_argnums=0)  # in place: no new pages to be had
    x = jnp.ones(size // 4, jnp.float32)

    def act() -> jax.Array:
        nonlocal x
        x = scaled(x)
        return x

    return 2 * size / repeated(act, times=times).least
