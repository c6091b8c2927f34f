"""What the GPU's kernels are asked for: seen in the lowered program, as there is no GPU here."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from rlft_jax.models import attention, attention_cudnn

R, T, N, K, H = 4, 256, 4, 2, 64


class Calls(NamedTuple):
    """The kernels of a program, forward and backward, and the program's text."""

    names: list[str]
    mask_types: list[str]
    segments: list[int]
    text: str

    @property
    def has_square(self) -> bool:
        """Whether any array has two axes as long as a row."""
        return re.search(rf"tensor<[0-9x]*x{T}x{T}x", self.text) is not None


@pytest.fixture
def hopper(monkeypatch):
    """What JAX asks of a machine before it takes the kernels, answered as one with an H100."""

    class Versions:
        @staticmethod
        def cudnn_get_version() -> int:
            return 91300

    monkeypatch.setattr(cudnn, "cuda_versions", Versions)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(attention_cudnn, "takes_packed_rows", lambda: True)


def lowered(segments, starts=None) -> Calls:
    """Attention and its gradient, lowered for CUDA."""

    def total(q, k, v):
        form = attention.attention("cudnn", segments, shape=(R, T), dtype="bfloat16", starts=starts)
        return form(q, k, v).astype(jnp.float32).sum()

    shape = lambda heads: jax.ShapeDtypeStruct((R, T, heads, H), jnp.bfloat16)
    traced = jax.jit(jax.value_and_grad(total, (0, 1, 2))).trace(shape(N), shape(K), shape(K))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    found = lambda pattern: re.findall(pattern, text)
    return Calls(
        names=found(r"@(__cudnn\$\w+)"),
        mask_types=found(r"mask_type\\22: \\22(\w+)"),
        segments=[int(n) for n in found(r"max_seg_per_batch\\22: (\d+)")],
        text=text,
    )


IDS = jnp.asarray([[1] * 100 + [2] * 156] * R)
STARTS = jnp.asarray([[0, 100, 256]] * R)


@pytest.mark.parametrize("starts", [None, jnp.zeros((R, 1), jnp.int32)], ids=["whole", "one each"])
def test_rows_of_one_segment_are_causal_and_no_more(hopper, starts):
    calls = lowered(None if starts is None else IDS, starts)
    assert calls.names == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert calls.mask_types == ["CAUSAL"] * 2
    assert not calls.has_square


def test_packed_rows_are_told_by_where_segments_begin(hopper):
    calls = lowered(IDS, STARTS)
    assert calls.names == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert calls.mask_types == ["PADDING_CAUSAL"] * 2
    assert calls.segments == [3, 3]
    assert not calls.has_square


def test_without_them_rows_are_told_by_a_mask_that_heads_share(hopper, monkeypatch):
    assert lowered(IDS).has_square
    monkeypatch.setattr(attention_cudnn, "takes_packed_rows", lambda: False)  # before Hopper
    calls = lowered(IDS, STARTS)
    assert calls.names == ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"]
    assert re.search(rf"tensor<{R}x{N}x{T}x{T}x", calls.text) is None


def test_each_device_attends_over_its_own_rows_and_heads(hopper):
    mesh = jax.make_mesh(
        (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        calls = lowered(IDS, STARTS)
    assert calls.mask_types == ["PADDING_CAUSAL"] * 2
    operands = re.search(r"__cudnn\$fmhaSoftmax\(.*?: \((.*?)\)", calls.text)
    assert operands is not None
    assert operands[1].startswith(f"tensor<{R // 4}x{T}x{N // 2}x{H}xbf16>")


def test_lengths_and_places_leave_out_what_is_empty():
    lengths, places = attention_cudnn.runs(jnp.array([[0, 3, 3, 5], [2, 6, 6, 6]]), 6)
    assert lengths.tolist() == [[3, -1, 2, 1], [4, -1, -1, -1]]
    assert places.tolist() == [[0, -1, 3, 5, -1], [2, -1, -1, -1, -1]]
