"""Every form of attention that runs here gives what the definition gives, and leaks nothing."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlft_jax.models import attention, attention_blockwise, attention_splash, attention_triangle
from rlft_jax.objectives import sft
from rlft_jax.training.sharding import ROWS, make_mesh
from tests import tiny
from tests.models.attention_cases import (
    SHAPES,
    Shape,
    dense,
    error,
    operands,
    segments,
    with_gradients,
)
from tests.models.qwen2_models import TINY, hidden, random_model, rows

BLOCK = 8
TOLERANCE = 3e-6  # relative to the largest entry, in float32


def splash(segments):
    """The TPU's kernel, run step by step."""
    kernel, rows = attention_splash.attention(segments, interpret=True)
    return attention._divided(kernel, rows)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention_triangle, "BLOCK", BLOCK)


FORMS = {
    "xla": attention_triangle.attention,
    "blockwise": functools.partial(attention_blockwise.attention, block=BLOCK),
    "splash": splash,
}
by_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@by_form
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_forms_give_what_the_definition_gives_and_its_gradients(form, shape):
    ids, given = segments(shape.tokens), operands(shape)
    ours = with_gradients(form, *given, ids)
    theirs = with_gradients(dense, *given, ids)
    for name, a, b in zip(("y", "dq", "dk", "dv"), ours, theirs, strict=True):
        assert error(a, b) < TOLERANCE, name


@by_form
def test_bfloat16_is_as_close_to_float32_as_the_dense_form_is(form):
    shape = SHAPES["one of all"]  # whose scale is a power of two, as that of Qwen2.5-0.5B
    ids, given = segments(shape.tokens), operands(shape, dtype="bfloat16")
    exact = with_gradients(dense, *(x.astype(jnp.float32) for x in given), ids)
    ours = with_gradients(form, *given, ids)
    defined = with_gradients(dense, *given, ids)
    for name, a, b, c in zip(("y", "dq", "dk", "dv"), ours, defined, exact, strict=True):
        # Scores' gradients are rounded for their products here, and stay float32 in the dense form.
        assert np.linalg.norm(a - c) < 1.5 * np.linalg.norm(b - c), name


@pytest.mark.parametrize("form", [dense, *FORMS.values()], ids=["dense", *FORMS])
def test_a_change_in_one_segment_leaves_the_others_bit_equal(form):
    shape = SHAPES["grouped"]
    ids, (q, k, v, cotangent) = segments(shape.tokens), operands(shape)
    before = with_gradients(form, q, k, v, cotangent, ids)
    for segment in (1, 3, 6, 8):
        changed = np.asarray(ids == segment)
        others = ~changed & np.asarray(ids > 0)
        given = [jnp.where(changed[..., None, None], 2 - 3 * x, x) for x in (q, k, v, cotangent)]
        for a, b in zip(with_gradients(form, *given, ids), before, strict=True):
            assert a[others].tobytes() == b[others].tobytes()
            assert (a[changed] != b[changed]).any()


def test_blocks_of_other_segments_are_not_visited():
    shape = Shape(tokens=4 * BLOCK, heads=2, kv_heads=1, head_width=8)
    # The last row is there to make shapes even.
    ids = jnp.repeat(jnp.array([[1, 1, 2, 2], [3, 4, 4, 4], [0, 0, 0, 0]]), BLOCK, axis=1)
    q, k, v, cotangent = operands(shape, rows=3)
    # Even a weight of 0 would spread what is not a number.
    poisoned = v.at[:, :BLOCK].set(jnp.nan)
    y, dq, dk, dv = with_gradients(FORMS["blockwise"], q, k, poisoned, cotangent, ids)
    for x in (y, dq, dk, dv):
        assert np.isfinite(x[:, 2 * BLOCK :]).all()
    assert np.isnan(y[0, :BLOCK]).all()


def test_no_array_grows_with_the_square_of_a_row():
    shape = Shape(tokens=32 * BLOCK, heads=2, kv_heads=1, head_width=4)
    given = operands(shape, rows=1)[:3]
    ids = jnp.ones((1, shape.tokens), jnp.int32)

    def largest(form) -> int:
        total = lambda *given: form(ids)(*given).sum()
        text = jax.jit(jax.grad(total, (0, 1, 2))).lower(*given).as_text()
        sizes = re.findall(r"tensor<((?:\d+x)+)f32>", text)
        return max(np.prod([int(n) for n in size.split("x")[:-1]]) for size in sizes)

    assert largest(dense) == shape.heads * shape.tokens**2
    most = attention_triangle.MOST_BLOCKS
    assert largest(FORMS["xla"]) == shape.heads * shape.tokens**2 / most
    assert largest(FORMS["blockwise"]) == shape.heads * shape.tokens * shape.head_width


@by_form
@pytest.mark.parametrize("tensor", [2, 4])
def test_eight_devices_share_rows_and_heads(form, tensor):
    """With four parts, two heads of keys do not divide: every part computes all heads."""
    shape = SHAPES["grouped"]
    ids, given = segments(shape.tokens), operands(shape)
    alone = with_gradients(form, *given, ids)
    mesh = make_mesh(data=2, tensor=tensor)
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    heads = "tensor" if tensor == 2 else None
    spread = [place(x, ROWS, None, heads, None) for x in given]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        shared = with_gradients(form, *spread, place(ids, ROWS))
    for a, b in zip(shared, alone, strict=True):
        assert error(a, b) < TOLERANCE


@pytest.fixture
def in_fours(monkeypatch):
    """Blocks that rows of tests have several of."""
    small = functools.partial(attention_blockwise.attention, block=4)
    monkeypatch.setattr(attention_blockwise, "attention", small)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_train_step_has_the_same_gradient_blockwise(remat, in_fours):
    batch = tiny.batch_of(tiny.responses(), tokens=18, micro_batches=2)
    policy = tiny.with_compute(tiny.policy(), remat=remat)
    blockwise = tiny.with_compute(policy, attention="blockwise")
    ours, _ = tiny.gradient(blockwise, sft.objective, batch)
    theirs, _ = tiny.gradient(policy, sft.objective, batch)
    assert 0 < tiny.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_no_segment_of_a_model_sees_another_blockwise(remat, in_fours):
    model = random_model()
    model.compute = dataclasses.replace(model.compute, attention="blockwise", remat=remat)
    tokens = jnp.asarray(rows(TINY, padding="right")[0])
    ids = jnp.asarray([[1] * 4 + [2] * 5, [3] * 7 + [0] * 2, [4] * 9])
    before = hidden(model, tokens, ids)
    for segment in (1, 2, 3, 4):
        after = hidden(model, jnp.where(ids == segment, tokens ^ 1, tokens), ids)
        others = np.asarray((ids != segment) & (ids > 0))
        np.testing.assert_array_equal(after[others], before[others])
        assert (after[np.asarray(ids == segment)] != before[np.asarray(ids == segment)]).any()
    model.compute = dataclasses.replace(model.compute, attention="xla")
    real = np.asarray(ids > 0)
    assert error(before[real], hidden(model, tokens, ids)[real]) < 2e-5


def test_what_auto_stands_for_depends_on_devices_numbers_and_lengths():
    at = functools.partial(attention.chosen, "auto")
    long = attention.LARGE_TRIANGLE_BELOW
    short = attention.TRIANGLE_BELOW["cpu"] - 1
    assert at(dtype="bfloat16", tokens=short, platform="gpu") == "cudnn"
    assert at(dtype="float32", tokens=short, platform="gpu") == "xla"
    assert at(dtype="float32", tokens=long, platform="gpu") == "blockwise"
    assert at(dtype="float32", tokens=short, platform="tpu") == "splash"
    assert at(dtype="float32", tokens=short, platform="tpu", is_divided=False) == "xla"
    assert at(dtype="bfloat16", tokens=short, platform="cpu") == "xla"
    assert at(dtype="bfloat16", tokens=short + 1, platform="cpu") == "blockwise"
    assert attention.chosen("xla", dtype="bfloat16", tokens=long, platform="gpu") == "xla"


def test_what_cannot_run_here_is_said():
    problem = functools.partial(attention.problem, dtype="bfloat16")
    assert "needs a GPU, but this machine has only CPUs" in str(problem("cudnn"))
    assert "needs a TPU" in str(problem("splash", platform="gpu"))
    assert "half precision only" in str(attention.problem("cudnn", dtype="float32", platform="gpu"))
    assert problem("cudnn", platform="gpu") is None
    assert [problem(form) for form in ("auto", "xla", "blockwise")] == [None] * 3


def test_a_slower_form_on_a_gpu_says_why():
    described = functools.partial(attention.described, "auto", tokens=512, platform="gpu")
    assert described(dtype="bfloat16") == "Attention over 512 tokens in bfloat16: cudnn."
    assert "xla (cuDNN's would need config.model.dtype = 'bfloat16')" in described(dtype="float32")
