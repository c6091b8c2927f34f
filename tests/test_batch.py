"""Facts about rows: what is laid into them comes out again, and nothing shares what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.batch import Batch, Example, Responses, pack
from rlft_jax.packing import bucket, first_fit
from tests import tiny

LENGTHS = [
    np.random.default_rng(seed).integers(0 if seed else 1, 13, shape)
    for seed, shape in enumerate([(8, 2), (4, 1), (6, 3), (12, 4), (2, 2)])
]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda x: str(x.shape))
class TestPlaces:
    def test_lift_undoes_lay(self, lengths, micro_batches, packed):
        packing = first_fit(lengths, tokens=16, micro_batches=micro_batches, packed=packed)
        T = int(lengths.max())
        values = np.random.default_rng(0).standard_normal((*lengths.shape, T))
        values[np.arange(T) >= lengths[..., None]] = 0
        rows = packing.lay(values)
        np.testing.assert_array_equal(packing.lift(rows, T), values)
        assert np.count_nonzero(rows) == lengths.sum()

    def test_a_response_lies_in_one_piece_in_one_row(self, lengths, micro_batches, packed):
        packing = first_fit(lengths, tokens=16, micro_batches=micro_batches, packed=packed)
        M, R, T = packing.shape
        assert packing.shape[0] == micro_batches
        assert (packing.row < R).all()
        assert (packing.start + lengths <= T).all()
        batch = pack(of_lengths(lengths), packing)
        for m in range(M):
            for segment in np.unique(batch.segments[m][batch.segments[m] > 0]):
                row, place = np.nonzero(batch.segments[m] == segment)
                assert len(set(row)) == 1
                np.testing.assert_array_equal(np.diff(place), 1)
                np.testing.assert_array_equal(batch.positions[m][row, place], np.arange(len(row)))

    def test_a_prompts_responses_share_a_micro_batch(self, lengths, micro_batches, packed):
        packing = first_fit(lengths, tokens=16, micro_batches=micro_batches, packed=packed)
        assert (packing.micro_batch == packing.micro_batch[:, :1]).all()
        prompts = np.bincount(packing.micro_batch[:, 0], minlength=micro_batches)
        assert (prompts == len(lengths) // micro_batches).all()

    def test_starts_tell_where_segments_begin(self, lengths, micro_batches, packed):
        packing = first_fit(lengths, tokens=16, micro_batches=micro_batches, packed=packed)
        packing = packing._replace(most=packing.fullest)
        M, R, T = packing.shape
        starts = pack(of_lengths(lengths), packing).starts
        assert starts.shape == (M, R, 1 if packing.most == 1 else packing.most + 1)
        for row, segments in zip(starts.reshape(M * R, -1), packing.segments.reshape(M * R, T)):
            begins = [0, *(np.flatnonzero(np.diff(segments)) + 1)]
            if packing.most == 1:
                assert row.tolist() == [0]  # and the padding after it belongs to it
            else:
                assert row.tolist() == [*begins, *[T] * (len(row) - len(begins))]

    def test_segments_count_responses_prompt_by_prompt(self, lengths, micro_batches, packed):
        packing = first_fit(lengths, tokens=16, micro_batches=micro_batches, packed=packed)
        B, G = lengths.shape
        for m in range(micro_batches):
            mine = packing.segment[packing.micro_batch[:, 0] == m]
            np.testing.assert_array_equal(mine.ravel(), 1 + np.arange(B // micro_batches * G))


def of_lengths(lengths: np.ndarray) -> Responses:
    """Responses of given lengths whose tokens, rewards and advantages tell them apart."""
    is_token = np.arange(lengths.max()) < lengths[..., None]
    number = 1 + np.arange(lengths.size, dtype=np.float32).reshape(lengths.shape)
    return Responses(
        tokens=np.where(is_token, number[..., None], 0).astype(np.int32),
        is_response=is_token & (np.arange(lengths.max()) > 0),
        lengths=lengths.astype(np.int32),
        rewards=number,
        advantages=np.where(is_token, number[..., None], 0).astype(np.float32),
    )


@pytest.mark.parametrize("packed", [True, False])
def test_fields_of_responses_meet_those_of_tokens(packed):
    lengths = LENGTHS[2]
    packing = first_fit(lengths, tokens=16, micro_batches=2, packed=packed)
    batch = jax.tree.map(jnp.asarray, pack(of_lengths(lengths), packing))
    for m in range(2):
        one: Batch = jax.tree.map(lambda x, m=m: x[m], batch)
        # A reward, given to every token of its response, is the number that the token carries.
        np.testing.assert_array_equal(one.per_token(one.rewards) * (one.segments > 0), one.tokens)
        # The sum of a response's tokens is its number as often as it has tokens.
        counts = one.per_response((one.segments > 0).astype(jnp.float32))
        np.testing.assert_array_equal(
            one.per_response(one.advantages), one.rewards * counts * one.is_real
        )
        np.testing.assert_array_equal(one.is_real, counts > 0)


def test_padded_is_one_response_a_row():
    made = tiny.responses(prompts=4, group=2)
    batch = pack(made, first_fit(made.lengths, tokens=99, packed=False))
    T = made.tokens.shape[-1]
    np.testing.assert_array_equal(batch.tokens[0, :8, :T], made.tokens.reshape(8, T))
    assert (batch.segments[0].max(-1) == 1 + np.arange(8)).all()
    assert (batch.positions[0] * (batch.segments[0] > 0) == batch.positions[0]).all()


def test_packed_rows_are_fewer_and_full():
    lengths = np.array([[8, 4], [12, 4], [4, 8]])
    packing = first_fit(lengths, tokens=16)
    assert packing.shape == (1, 3, 16)
    assert first_fit(lengths, tokens=16, packed=False).shape == (1, 6, 16)


@pytest.mark.parametrize(
    ("lengths", "tokens", "multiple", "shape"),
    [
        ([96] * 8, 512, 1, (1, 2, 384)),
        ([60] * 4, 512, 1, (1, 1, 256)),
        ([125] * 8, 512, 1, (1, 2, 512)),  # full
        ([110] * 9, 512, 1, (1, 3, 384)),
        ([300, 300, 300, 300, 300], 512, 4, (1, 8, 384)),
        ([160] * 7, 512, 1, (1, 3, 512)),  # as (1, 4, 384) would be no quarter less
        ([400, 96, 96], 512, 1, (1, 2, 512)),  # the longest would not fit
        ([96] * 8, 500, 1, (1, 2, 500)),  # three quarters of it are no round number
        ([300] * 4, 512, 1, (1, 4, 512)),  # not few
    ],
)
def test_few_rows_are_cut_shorter_for_less_padding(lengths, tokens, multiple, shape):
    pack = lambda **how: first_fit(
        np.array(lengths)[:, None], tokens=tokens, multiple=multiple, **how
    )
    assert pack(may_shorten=True).shape == shape
    assert pack().shape[2] == tokens


def test_longer_prompts_are_dealt_evenly():
    lengths = np.arange(1, 17)[:, None]
    packing = first_fit(lengths, tokens=16, micro_batches=4)
    loads = np.bincount(packing.micro_batch.ravel(), lengths.ravel())
    np.testing.assert_array_equal(loads, [34, 34, 34, 34])


def test_rows_and_tokens_come_in_few_sizes():
    sizes = [bucket(n) for n in range(1, 1000)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert max(size / n for n, size in enumerate(sizes, 1)) <= 1.25
    assert sum(512 < size <= 1024 for size in set(sizes)) == 4
    assert {bucket(n, 8) % 8 for n in range(100)} == {0}


@pytest.mark.parametrize("multiple", [1, 4, 6])
def test_devices_share_rows_evenly(multiple):
    for lengths in LENGTHS:
        assert first_fit(lengths, tokens=16, multiple=multiple).shape[1] % multiple == 0


@pytest.mark.parametrize("packed", [True, False])
def test_a_response_too_long_for_a_row_names_the_setting(packed):
    with pytest.raises(ValueError, match=r"of 17 tokens(.|\n)*config\.batch\.tokens = 16"):
        first_fit(np.array([[3], [17]]), tokens=16, packed=packed)


@pytest.mark.parametrize("packed", [True, False])
def test_segments_go_on_counting_over_processes(packed):
    lengths = LENGTHS[0]
    first, second = (
        first_fit(lengths, tokens=16, micro_batches=2, packed=packed, process=p) for p in (0, 1)
    )
    np.testing.assert_array_equal(second.segment, first.segment + 4 * 2)
    np.testing.assert_array_equal(second.row, first.row)
    assert first.shape == second.shape


def test_two_processes_rows_make_one_batch():
    made = [of_lengths(LENGTHS[0]), of_lengths(LENGTHS[0][::-1])]
    halves = [
        pack(part, first_fit(part.lengths, tokens=16, process=p)) for p, part in enumerate(made)
    ]
    joined = Batch(*(None if x is None else jnp.concatenate([x, y], 1) for x, y in zip(*halves)))
    one = tiny.first_micro_batch(joined)
    counts = one.per_response((one.segments > 0).astype(jnp.float32))
    np.testing.assert_array_equal(
        counts.ravel(), np.concatenate([part.lengths.ravel() for part in made])
    )
    np.testing.assert_array_equal(one.per_response(one.advantages), one.rewards * counts)


def test_examples_are_padded_with_what_is_no_response():
    example = lambda n: Example(np.full(n, 7, np.int32), np.arange(n) > 0)
    made = Responses.of([[example(3), example(1)], [example(2), example(4)]])
    np.testing.assert_array_equal(made.lengths, [[3, 1], [2, 4]])
    np.testing.assert_array_equal(made.tokens.sum(-1), 7 * made.lengths)
    np.testing.assert_array_equal(made.is_response.sum(-1), made.lengths - 1)


def test_a_missing_field_names_the_setting_that_adds_it():
    batch = tiny.batch_of(tiny.responses(scored=False))
    with pytest.raises(ValueError, match=r"batch\.reference_logprobs(.|\n)*config\.reference"):
        batch.require("reference_logprobs")
