"""Facts about texts in rows: whole, in order, and read at the right token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.packing import first_fit
from rlft_jax.texts import Text, TextBatch, Texts, pack

LENGTHS = ((3, 7), (5, 0), (12, 1), (2, 4), (9, 6), (12, 12))


def texts_of(lengths=LENGTHS) -> Texts:
    """Texts whose tokens tell all of them apart: 100 times their number, counting on."""
    groups, number = [], 0
    for group in lengths:
        made = []
        for n in group:
            number += 1
            ids = 100 * number + np.arange(n)
            made.append(Text(ids.astype(np.int32), (np.arange(n) >= n // 2).astype(np.int32)))
        groups.append(made)
    B, G = len(groups), len(groups[0])
    return Texts.of(groups)._replace(
        targets=np.arange(B * G, dtype=np.float32).reshape(B, G),
        margins=np.arange(B, dtype=np.float32),
    )


def batch_of(texts: Texts, *, packed: bool, micro_batches: int = 1) -> TextBatch:
    packing = first_fit(texts.lengths, tokens=14, packed=packed, micro_batches=micro_batches)
    return pack(texts, packing)


def in_texts(batch: TextBatch, m: int) -> dict[int, np.ndarray]:
    """The tokens of every real text of a micro-batch, by the number of its segment."""
    tokens, segments = batch.tokens[m], batch.segments[m]
    return {int(s): tokens[segments == s] for s in np.unique(segments) if s}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_every_text_is_laid_down_whole_and_once(packed, micro_batches):
    texts = texts_of()
    batch = batch_of(texts, packed=packed, micro_batches=micro_batches)
    found = []
    for m in range(micro_batches):
        for segment, tokens in in_texts(batch, m).items():
            np.testing.assert_array_equal(np.diff(tokens), 1)
            where = batch.segments[m] == segment
            np.testing.assert_array_equal(batch.positions[m][where], np.arange(len(tokens)))
            np.testing.assert_array_equal(
                batch.types[m][where], np.arange(len(tokens)) >= len(tokens) // 2
            )
            found.append((int(tokens[0]), len(tokens)))
    wanted = [(100 * (i + 1), n) for i, n in enumerate(texts.lengths.ravel()) if n]
    assert sorted(found) == wanted
    assert batch.tokens.sum() == sum(100 * (i + 1) * n + n * (n - 1) // 2
                                     for i, n in enumerate(texts.lengths.ravel()))  # fmt: skip


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_segments_count_texts_in_the_order_of_per_text_fields(packed, micro_batches):
    batch = batch_of(texts_of(), packed=packed, micro_batches=micro_batches)
    G = 2
    for m in range(micro_batches):
        for segment, tokens in in_texts(batch, m).items():
            p, g = divmod(segment - 1, G)
            number = tokens[0] // 100 - 1
            assert batch.is_real[m, p, g]
            assert batch.targets[m, p, g] == number
            assert batch.margins[m, p] == number // G
        assert batch.is_real[m].sum() == len(in_texts(batch, m))


@pytest.mark.parametrize("packed", [True, False])
def test_first_and_last_find_the_ends_of_every_text(packed):
    texts = texts_of()
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), batch_of(texts, packed=packed))
    states = jnp.stack([batch.tokens, batch.positions], -1).astype(jnp.float32)
    first, last = (np.asarray(f(states)) for f in (batch.first, batch.last))
    starts = 100 * (1 + np.arange(texts.lengths.size)).reshape(texts.lengths.shape)
    real = texts.lengths > 0
    np.testing.assert_array_equal(first[real][:, 0], starts[real])
    np.testing.assert_array_equal(first[real][:, 1], 0)
    np.testing.assert_array_equal(last[real][:, 0], (starts + texts.lengths - 1)[real])
    np.testing.assert_array_equal(last[real][:, 1], texts.lengths[real] - 1)
    assert np.isfinite(first[~real]).all()
    assert np.isfinite(last[~real]).all()


def test_only_the_state_that_is_read_gets_a_gradient():
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), batch_of(texts_of(), packed=True))
    states = jnp.ones((*batch.tokens.shape, 3))
    total = lambda read: lambda s: (read(s) * batch.is_real[..., None]).sum()
    for read, is_read in (
        (batch.first, (batch.positions == 0) & (batch.segments > 0)),
        (batch.last, (batch.segments != jnp.pad(batch.segments[:, 1:], ((0, 0), (0, 1))))
                     & (batch.segments > 0)),
    ):  # fmt: skip
        gradient = jax.grad(total(read))(states)
        np.testing.assert_array_equal(gradient[..., 0], is_read)


def test_a_text_that_is_not_there_takes_no_room():
    texts = texts_of(((3, 0), (0, 0)))
    batch = batch_of(texts, packed=True)
    np.testing.assert_array_equal(batch.is_real[0], [[True, False], [False, False]])
    assert (batch.segments > 0).sum() == 3


def test_fields_that_are_not_given_stay_away():
    texts = texts_of()._replace(targets=None, margins=None)
    batch = batch_of(texts, packed=True)
    assert batch.targets is None
    assert batch.margins is None
