"""Causal attention within segments over whole rows: which form computes it.

All forms compute the same, and no token ever depends on one of another segment. What they
give for padding differs; nothing reads it.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlft_jax.models import (
    attention_blockwise,
    attention_cudnn,
    attention_splash,
    attention_triangle,
)
from rlft_jax.models.attention_blockwise import Prompts
from rlft_jax.models.on_mesh import divided, row_axes, tensor_axis

Form = Literal["auto", "xla", "blockwise", "cudnn", "splash"]
# Takes queries `[R, T, N, H]`, keys and values `[R, T, K, H]`; returns what they attended to.
Attend = Callable[[Array, Array, Array], Array]

# Shorter rows are faster in a triangle of few blocks, where there is no kernel. On two CPU cores it
# takes 0.6 of the time of a loop over blocks at 512 tokens, and still less below; at 1,024 it takes
# 0.8, or longer than the loop where rows hold short segments. Others were not measured.
TRIANGLE_BELOW = {"cpu": 513}
LARGE_TRIANGLE_BELOW = 1024
# Forms in which texts of a row can share what they begin with.
SHARING = ("xla", "blockwise")
PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}


def chosen(
    form: Form,
    *,
    dtype: Any,
    tokens: int,
    platform: str | None = None,
    is_divided: bool = True,
) -> Form:
    """The form that `auto` stands for, for rows of so many tokens; any other form as it is.

    cuDNN's kernels take half precision only, so float32 has plain XLA on GPUs too.

    >>> chosen("auto", dtype="bfloat16", tokens=64, platform="gpu")
    'cudnn'

    Args:
        platform: "cpu", "gpu" or "tpu"; that of the default devices if left out.
        is_divided: Whether it is known how devices share the work, which no compiler can find
            out for the TPU's kernels.
    """
    if form != "auto":
        return form
    platform = platform or jax.default_backend()
    if platform == "tpu" and is_divided:
        return "splash"
    if platform == "gpu" and jnp.dtype(dtype).itemsize == 2:
        return "cudnn"
    is_short = tokens < TRIANGLE_BELOW.get(platform, LARGE_TRIANGLE_BELOW)
    return "xla" if is_short else "blockwise"


def problem(form: Form, *, dtype: Any, platform: str | None = None) -> str | None:
    """What keeps a form from running here, for who chose it; None if nothing does."""
    platform, wanted = platform or jax.default_backend(), PLATFORMS.get(form)
    if wanted is not None and platform != wanted:
        return (
            f"config.model.attention = {form!r} needs a {wanted.upper()}, but this machine has only"
            f" {platform.upper()}s; leave it at 'auto'."
        )
    if form == "cudnn" and jnp.dtype(dtype).itemsize != 2:
        return (
            f"config.model.attention = 'cudnn' computes in half precision only, not in {dtype};"
            " set config.model.dtype = 'bfloat16', or leave attention at 'auto'."
        )
    return None


def described(form: Form, *, dtype: Any, tokens: int, platform: str | None = None) -> str:
    """Says which form rows of so many tokens take here, and why it is not a faster one."""
    found = chosen(form, dtype=dtype, tokens=tokens, platform=platform)
    is_slow = (platform or jax.default_backend()) == "gpu" and found != "cudnn" and form == "auto"
    why = " (cuDNN's would need config.model.dtype = 'bfloat16')" if is_slow else ""
    return f"Attention over {tokens} tokens in {dtype}: {found}{why}."


def attention(
    form: Form,
    segments: Int[Array, "R T"] | None,
    *,
    shape: tuple[int, int],
    dtype: Any,
    starts: Int[Array, "R S"] | None = None,
    prompts: Prompts | None = None,
) -> Attend:
    """Returns attention over rows, with what it needs to know of them computed once.

    Args:
        segments: Which tokens belong together, side by side; None if all of a row do.
        shape: R and T.
        dtype: Of queries, keys and values.
        starts: Where each response of a row begins, and T where there are no more; only cuDNN's
            kernels have to know.
        prompts: Earlier places that tokens see beside their own segment, from and to; not for
            the devices' own kernels.
    """
    is_divided = jax.device_count() == 1 or not jax.sharding.get_abstract_mesh().empty
    form = chosen(form, dtype=dtype, tokens=shape[1], is_divided=is_divided)
    assert prompts is None or form in SHARING, form
    if form == "cudnn":
        return _divided(*attention_cudnn.attention(segments, starts))
    if form == "splash":
        return _divided(*attention_splash.attention(segments))
    if segments is None:
        segments = jnp.ones(shape, jnp.int32)
    by_form = attention_blockwise if form == "blockwise" else attention_triangle
    return by_form.attention(segments, prompts)


def prompts_of(
    segments: Int[Array, "R T"], positions: Int[Array, "R T"], prompt_starts: Int[Array, "R T"]
) -> Prompts:
    """The places of what a token's segment leaves out because another one has it.

    Args:
        positions: Of tokens in their texts; a segment that leaves something out begins later.
        prompt_starts: Where the text of each token begins.
    """
    places = jnp.arange(segments.shape[1])[None]
    missing = positions - (places - attention_blockwise.segment_starts(segments))
    return prompt_starts, prompt_starts + missing


def _divided(kernel: Callable[..., Array], rows: tuple[Array, ...]) -> Attend:
    """Runs a kernel on each device's part of rows and heads; what does not divide, everywhere."""

    def attend(
        q: Float[Array, "R T N H"], k: Float[Array, "R T K H"], v: Float[Array, "R T K H"]
    ) -> Float[Array, "R T N H"]:
        by_rows = row_axes(len(q))
        spec = P(by_rows, None, tensor_axis(k.shape[2]), None)
        in_specs = (spec, spec, spec, *(P(by_rows, None) for _ in rows))
        return divided(kernel, in_specs, spec)(q, k, v, *rows)

    return attend
