import itertools
import random
from fractions import Fraction

import pytest

from rlft_jax.tasks.arithmetic import leaves, postorder, value
from rlft_jax.tasks.countdown_solver import solvable, solve


def reachable(values):
    """Everything that the numbers can make, by plain enumeration with signs kept."""
    if len(values) == 1:
        return {values[0]}
    made = set()
    for i, j in itertools.permutations(range(len(values)), 2):
        rest = [v for k, v in enumerate(values) if k not in (i, j)]
        a, b = values[i], values[j]
        for result in (a + b, a - b, a * b, a / b if b else None):
            if result is not None:
                made |= reachable([*rest, result])
    return made


@pytest.mark.parametrize("nums", [[3, 5, 8], [0, 4, 4], [1, 1, 2], [0, 0, 7], [6, 2, 9, 3]])
def test_every_reachable_target_is_solved_and_every_other_refuted(nums):
    made = reachable([Fraction(n) for n in nums])
    for target in range(121):
        found = solve(nums, target)
        assert (found is not None) == (target in made), target
        if found is not None:
            assert value(found) == target
            assert sorted(leaves(found)) == sorted(nums)


def test_negative_targets_are_reached_by_a_minus():
    assert value(solve([3, 5], -2)) == -2
    assert value(solve([3, 5], -15)) == -15


def test_fractions_on_the_way_are_found_where_needed():
    assert str(solve([3, 3, 8, 8], 24)) == "8 / (3 - (8 / 3))"
    assert not solvable([3, 3, 8, 8], 24)  # in whole numbers
    assert solvable([3, 5, 8], 16)


def test_whole_numbers_and_plain_sums_are_preferred():
    assert str(solve([2, 2], 4)) == "2 + 2"
    parts = list(postorder(solve([8, 3, 9, 4], 24)))
    assert all(value(part).denominator == 1 for part in parts)


def test_five_and_six_numbers_are_solved_and_refuted():
    assert value(solve([92, 8, 36, 89, 64], 95)) == 95
    assert solve([1, 1, 1, 1, 1, 1], 9999) is None
    draws = random.Random(0)
    nums = [draws.randint(1, 99) for _ in range(6)]
    assert value(solve(nums, 547)) == 547


def test_the_leaderboard_problems_are_all_solvable(shared_rows):
    rows = shared_rows("countdown/cs224r_leaderboard_200.jsonl")
    assert any(0 in row["nums"] for row in rows)
    for row in rows:
        found = solve(row["nums"], row["target"])
        assert value(found) == row["target"]
        assert sorted(leaves(found)) == sorted(row["nums"])


def test_real_problems_are_solvable_in_whole_numbers(shared_rows):
    rows = shared_rows("countdown/tasks_3to4_train.jsonl.gz")[:: 95_867 // 1000]
    assert all(solvable(row["nums"], row["target"]) for row in rows)
