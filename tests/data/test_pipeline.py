"""Facts about the order of the data."""

import collections
import itertools
import json

import pytest

from rlft_jax.data.pipeline import batches, steps_for


def take(stream, count):
    return list(itertools.islice(stream, count))


def test_each_epoch_sees_every_item_once_in_another_order():
    items = list(range(10))
    seen = list(itertools.chain(*take(batches([items], prompts=4, seed=0), 5)))
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == items
    assert first != second
    assert items not in (first, second)


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    stream = lambda seed: take(batches([range(50)], prompts=5, seed=seed), 20)
    assert stream(3) == stream(3)
    # Not even in another epoch: seed 4 is not seed 3 an epoch later.
    assert all(len({*a} & {*b}) < 5 for a in stream(3) for b in stream(4))


def test_without_shuffling_the_order_is_that_of_the_data():
    stream = batches(["abcde"], prompts=2, seed=0, shuffle=False)
    assert take(stream, 4) == [("a", "b"), ("c", "d"), ("e", "a"), ("b", "c")]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_see_the_batches_of_one(processes):
    # 10 items do not divide into batches of 6, so this crosses the ends of epochs.
    alone = take(batches([range(10)], prompts=6, seed=1), 8)
    shares = [
        take(
            batches([range(10)], prompts=6 // processes, seed=1, process=p, processes=processes), 8
        )
        for p in range(processes)
    ]
    assert [tuple(itertools.chain(*step)) for step in zip(*shares)] == alone


@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_a_stream_continues_where_it_was_stopped(stop):
    stream = batches([range(10), range(100, 103)], weights=[2, 1], prompts=4, seed=5)
    expected = take(stream, 12)
    stream = batches([range(10), range(100, 103)], weights=[2, 1], prompts=4, seed=5)
    take(stream, stop)
    state = json.loads(json.dumps(stream.get_state()))
    resumed = batches([range(10), range(100, 103)], weights=[2, 1], prompts=4, seed=5)
    resumed.set_state(state)
    assert take(resumed, 12 - stop) == expected[stop:]


def test_a_position_is_the_same_on_any_number_of_processes():
    alone = batches([range(10)], prompts=4, seed=5)
    take(alone, 3)
    second = batches([range(10)], prompts=2, seed=5, process=1, processes=2)
    second.set_state(alone.get_state())
    assert next(alone)[2:] == next(second)


def test_a_position_in_other_data_is_refused():
    state = batches([range(10)], prompts=4, seed=5).get_state()
    with pytest.raises(ValueError, match=r"examples was \[10\] and is \[11\](.|\n)*seed was 5"):
        batches([range(11)], prompts=4, seed=6).set_state(state)


def test_a_mixture_draws_by_weight_and_repeats_what_is_short():
    parts = [["a"] * 3, ["b"] * 200]
    drawn = collections.Counter()
    for batch in take(batches(parts, weights=[3, 1], prompts=8, seed=0), 50):
        drawn.update(batch)
    assert drawn == {"a": 300, "b": 100}


def test_items_of_a_mixture_come_equally_often():
    stream = batches([range(4), range(10, 16)], weights=[1, 1], prompts=8, seed=0)
    drawn = collections.Counter(itertools.chain(*take(stream, 6)))  # 24 of each part
    assert {drawn[i] for i in range(4)} == {6}
    assert {drawn[i] for i in range(10, 16)} == {4}


def test_steps_are_known_before_the_start():
    assert steps_for(1, examples=8, prompts=4) == 2
    assert steps_for(1, examples=10, prompts=4) == 3
    assert steps_for(0.5, examples=8, prompts=4) == 1
    # In floating point 1.1 x 10 is more than 11.
    assert steps_for(1.1, examples=10, prompts=11) == 1


@pytest.mark.parametrize(
    ("parts", "weights"), [([[]], None), ([], None), ([[1]], [0]), ([[1], [2]], [1])]
)
def test_mixtures_of_nothing_are_refused(parts, weights):
    with pytest.raises(ValueError, match="cannot be mixed"):
        batches(parts, weights=weights, prompts=1, seed=0)
