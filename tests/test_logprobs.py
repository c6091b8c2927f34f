"""Log-probabilities are those of a plain log-softmax, however rows are laid and chunks are cut."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rlft_jax.batch import Batch, pack
from rlft_jax.logprobs import head_scores, response_logprobs, token_scores
from rlft_jax.models import head
from rlft_jax.models.head import Scores
from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.models.qwen2 import Architecture, Compute, Qwen2
from rlft_jax.packing import first_fit
from rlft_jax.training.sharding import shardings
from tests import tiny

RESPONSES = tiny.responses(prompts=4, scored=False)
POLICY = tiny.policy()
ALL = lambda targets: jnp.ones(targets.shape, bool)  # of its positions


@functools.partial(jax.jit, static_argnames=("graph", "temperature"))
def scored(graph: nnx.GraphDef, params, batch: Batch, temperature: float) -> Scores:
    """Scores of all tokens, entropy included."""
    model = nnx.merge(graph, params)
    return token_scores(model, batch, temperature=temperature, with_entropy=True)


def plain(temperature: float) -> Scores:
    """The definition: each response by itself, all logits at once, in float64."""
    B, G, T = RESPONSES.tokens.shape
    tokens = RESPONSES.tokens.reshape(B * G, T)
    logits = np.asarray(POLICY.model.unembed(POLICY.model.hidden(jnp.asarray(tokens))), np.float64)
    logits /= temperature
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    given = np.take_along_axis(logp[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    is_scored = RESPONSES.is_response[..., 1:].reshape(B * G, T - 1)
    place = lambda x: np.pad(np.where(is_scored, x, 0), ((0, 0), (1, 0))).reshape(B, G, T)
    return Scores(
        place(given),  # pyright: ignore
        place(-(np.exp(logp) * logp).sum(-1)[:, :-1]),  # pyright: ignore
        place(given == logp[:, :-1].max(-1)),  # pyright: ignore
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("head_chunk", [1, 24, 10_000])
def test_scores_are_those_of_the_definition(head_chunk, packed, temperature):
    policy = tiny.with_compute(POLICY, head_chunk=head_chunk)
    packing = first_fit(RESPONSES.lengths, tokens=16, packed=packed)
    batch = jax.tree.map(jnp.asarray, pack(RESPONSES, packing))
    scores = scored(policy.graph, policy.params, tiny.first_micro_batch(batch), temperature)
    expected = plain(temperature)
    for ours, theirs in zip(scores, expected):
        lifted = packing.lift(np.asarray(ours)[None], RESPONSES.tokens.shape[-1])
        np.testing.assert_allclose(lifted, theirs, atol=2e-6)
        # Prompts, padding and first tokens, which nothing predicted, have no scores.
        assert np.count_nonzero(ours) == np.count_nonzero(lifted)


@pytest.mark.parametrize("T", [1, 7, 13])
def test_rows_of_any_length_are_scored_in_full_chunks(T):
    # 13 is prime: no chunk but one of 13 or of 1 divides it.
    hidden = jax.random.normal(jax.random.key(0), (3, T, 32))
    targets = jax.random.randint(jax.random.key(1), (3, T), 0, 64)
    chunked, whole = (
        head_scores(
            tiny.with_compute(POLICY, head_chunk=chunk).model, hidden, targets, ALL(targets)
        )
        for chunk in (12, 10_000)
    )
    np.testing.assert_allclose(chunked.logprobs, whole.logprobs, atol=1e-6)
    np.testing.assert_array_equal(chunked.is_top, whole.is_top)
    assert chunked.logprobs.shape == (3, T)
    program = str(
        jax.make_jaxpr(
            lambda x: head_scores(
                tiny.with_compute(POLICY, head_chunk=12).model, x, targets, ALL(targets)
            )
        )(hidden)
    )
    assert f"f32[{-(-3 * T // -(-3 * T // 12))},64]" in program
    assert T <= 4 or f"f32[{3 * T},64]" not in program


def plain_loss(params, hidden, targets):
    """Sum of log-probabilities by the definition, at temperature 0.7."""
    logits = jnp.einsum("rtd,vd->rtv", hidden, params["embed"]["embedding"]) / 0.7
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1).sum()


def test_gradients_are_those_of_the_definition():
    policy = tiny.with_compute(POLICY, head_chunk=12)
    hidden = jax.random.normal(jax.random.key(0), (3, 13, 32))
    targets = jax.random.randint(jax.random.key(1), (3, 13), 0, 64)

    def loss(params, hidden):
        model = nnx.merge(policy.graph, params)
        return head_scores(model, hidden, targets, ALL(targets), temperature=0.7).logprobs.sum()

    ours = jax.grad(loss, (0, 1))(policy.params, hidden)
    theirs = jax.grad(plain_loss, (0, 1))(policy.params, hidden, targets)
    assert tiny.distance(ours[0]["embed"], theirs[0]["embed"]) < 1e-6
    assert tiny.distance(ours[1], theirs[1]) < 1e-6


@pytest.fixture
def small_chunks(monkeypatch):
    """Even few positions are cut into eight chunks."""
    monkeypatch.setattr(head, "POSITIONS", 1)


@pytest.mark.parametrize("head_chunk", [5, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_what_is_not_scored_changes_nothing(share, head_chunk, small_chunks):
    policy = tiny.with_compute(POLICY, head_chunk=head_chunk)
    hidden = jax.random.normal(jax.random.key(0), (3, 13, 32))
    targets = jax.random.randint(jax.random.key(1), (3, 13), 0, 64)
    is_scored = jax.random.uniform(jax.random.key(2), (3, 13)) < share

    def total(params, hidden, is_chosen):
        model = nnx.merge(policy.graph, params)
        scores = head_scores(model, hidden, targets, is_chosen, with_entropy=True)
        return jnp.where(is_scored, scores.logprobs, 0).sum(), scores

    value = jax.value_and_grad(total, (0, 1), has_aux=True)
    (_, ours), gradient = value(policy.params, hidden, is_scored)
    (_, theirs), whole_gradient = value(policy.params, hidden, ALL(targets))
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, jnp.where(is_scored, other, 0), atol=1e-6)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(whole_gradient)):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_chunks_with_nothing_to_score_are_not_computed(small_chunks):
    """Of 32 positions, in eight chunks of 4, the first 8 in each row of 16 count."""
    is_scored = jnp.broadcast_to(jnp.arange(16) < 8, (2, 16))
    hidden = jnp.where(is_scored[..., None], 0.1, jnp.nan) * jnp.ones((2, 16, 32))
    targets = jnp.zeros((2, 16), jnp.int32)

    def total(params):
        model = nnx.merge(POLICY.graph, params)
        return head_scores(model, hidden, targets, is_scored).logprobs.sum()

    value, gradient = jax.value_and_grad(total)(POLICY.params)
    assert np.isfinite(value)
    assert np.isfinite(gradient["embed"]["embedding"]).all()


@pytest.mark.parametrize(
    ("sizes", "rows", "head_chunk", "dtype"),
    [
        ((2, 2, 2), 4, 5, "float32"),
        ((1, 8, 1), 8, 100, "bfloat16"),
        ((1, 2, 4), 3, 100, "float32"),
        ((1, 1, 1), 4, 5, "float32"),
    ],
    ids=["all axes", "rows, logits kept", "rows do not divide", "one device"],
)
def test_devices_share_the_work_and_wait_for_each_other_outside_of_chunks(
    sizes, rows, head_chunk, dtype, small_chunks
):
    policy = tiny.with_compute(POLICY, head_chunk=head_chunk, dtype=dtype)
    axes, used = ("data", "fsdp", "tensor"), int(np.prod(sizes))
    types = (AxisType.Auto,) * 3
    mesh = jax.make_mesh(sizes, axes, axis_types=types, devices=jax.devices()[:used])
    hidden = jax.random.normal(jax.random.key(0), (rows, 16, 32), dtype)
    targets = jax.random.randint(jax.random.key(1), (rows, 16), 0, 64)
    # Devices differ in how many chunks they leave out.
    is_scored = jax.random.uniform(jax.random.key(2), (rows, 16)) < jnp.arange(rows)[:, None] / 4

    def total(params, hidden, *batch):
        found = head_scores(nnx.merge(policy.graph, params), hidden, *batch, with_entropy=True)
        return found.logprobs.sum(), found

    value = jax.value_and_grad(total, (0, 1), has_aux=True)
    compiled = functools.partial(jax.jit, compiler_options=tiny.QUICKLY)
    alone = compiled(value)(policy.params, hidden, targets, is_scored)
    params = jax.device_put(policy.params, shardings(policy.params, mesh))
    spread = PartitionSpec(("data", "fsdp") if rows != 3 else None)
    batch = jax.device_put((hidden, targets, is_scored), NamedSharding(mesh, spread))
    program = compiled(on_mesh(mesh, value)).lower(params, *batch).compile()
    for one, other in zip(jax.tree.leaves(program(params, *batch)), jax.tree.leaves(alone)):
        one, other = np.asarray(one, float), np.asarray(other, float)
        np.testing.assert_allclose(one, other, atol=1e-5 if dtype == "float32" else 0.02)
    # A loop or a condition that waits for others would stop for ever where devices differ.
    inner, entry = program.as_text().split("ENTRY")
    collective = r" (all-[a-z-]+|reduce-scatter|collective-permute)\("
    assert bool(re.search(collective, entry)) == (used > 1)
    assert not re.search(collective, inner)
    # Each has its own rows alone.
    is_dealt = rows != 3 and used > 1
    assert (f"[{rows},16,32]" in entry or f"[{rows * 16},32]" in entry) != is_dealt


def test_entropy_has_no_gradient():
    batch = tiny.first_micro_batch(tiny.batch_of(RESPONSES))
    entropy = lambda params: scored(POLICY.graph, params, batch, 1.0).entropy.sum()
    assert all(not x.any() for x in jax.tree.leaves(jax.grad(entropy)(POLICY.params)))


def test_only_responses_have_response_logprobs():
    batch = tiny.first_micro_batch(tiny.batch_of(RESPONSES))
    found = response_logprobs(POLICY.model, batch)
    assert ((np.asarray(found) != 0) == batch.is_response).all()


@pytest.mark.parametrize(
    ("dtype", "head_chunk", "most"),
    [
        ("float32", None, 1.1),
        ("bfloat16", None, 1.6),  # it has a copy of the head, 0.25 GiB
        ("float32", 256, 0.75),
        ("bfloat16", 256, 1.0),
    ],
)
def test_the_head_of_qwen_takes_little_memory(dtype, head_chunk, most):
    """Compiled only: 8 rows of 1,024 tokens, a vocabulary of 151,936 and a width of 896."""
    V, D, R, T = 151_936, 896, 8, 1024
    architecture = Architecture(
        vocabulary=V, width=D, layers=1, heads=1, kv_heads=1, feed_forward=1, head_width=2
    )
    compute = Compute(dtype=dtype, head_chunk=head_chunk)
    make = lambda: Qwen2(architecture, compute=compute, rngs=nnx.Rngs(0))
    graph, params = nnx.split(nnx.eval_shape(make))
    hidden = jax.ShapeDtypeStruct((R, T, D), dtype)
    targets = jax.ShapeDtypeStruct((R, T), jnp.int32)

    def ours(params, hidden, targets):
        model = nnx.merge(graph, params)
        return head_scores(model, hidden, targets, ALL(targets), with_entropy=True).logprobs.sum()

    def usual(params, hidden, targets):
        logp = jax.nn.log_softmax(nnx.merge(graph, params).unembed(hidden))
        return jnp.take_along_axis(logp, targets[..., None], -1).sum()

    def gibibytes(loss) -> float:
        program = jax.jit(jax.grad(loss, (0, 1)), compiler_options=tiny.QUICKLY)
        compiled = program.lower(params, hidden, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 2**30

    assert gibibytes(ours) <= most
    assert gibibytes(usual) > 6
