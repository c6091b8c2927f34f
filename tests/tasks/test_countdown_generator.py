import itertools
import operator

import pytest

from rlft_jax.tasks import countdown_generator
from rlft_jax.tasks.countdown import generate
from rlft_jax.tasks.countdown_generator import identity
from rlft_jax.tasks.countdown_solver import solvable

ROWS = generate(seed=0, count=2000)


def test_the_same_seed_gives_the_same_rows():
    assert generate(seed=0, count=50) == ROWS[:50]
    assert generate(seed=1, count=50) != ROWS[:50]


def test_rows_follow_the_published_distribution():
    sizes = [len(row["nums"]) for row in ROWS]
    assert set(sizes) == {3, 4}
    assert abs(sizes.count(3) / 2000 - 0.5) < 0.04  # 3.6 standard errors
    numbers = [number for row in ROWS for number in row["nums"]]
    assert min(numbers) >= 1
    assert max(numbers) <= 99
    assert abs(sum(numbers) / len(numbers) - 45.1) < 1.5  # the mean measured on the real set
    targets = [row["target"] for row in ROWS]
    assert min(targets) >= 10
    assert max(targets) <= 100
    assert all(solvable(row["nums"], row["target"]) for row in ROWS)


def test_as_many_problems_as_in_the_real_set_need_no_product():
    def needs_no_product(row):
        signs = itertools.product((1, -1), repeat=len(row["nums"]))
        return any(sum(map(operator.mul, row["nums"], s)) == row["target"] for s in signs)

    for size, share in ((3, 0.713), (4, 0.347)):  # of the 95,867 real rows
        rows = [row for row in ROWS if len(row["nums"]) == size]
        assert abs(sum(map(needs_no_product, rows)) / len(rows) - share) < 0.05


def test_excluded_problems_are_never_drawn_in_any_order():
    small = {"numbers": (3,), "largest": 5, "targets": (1, 20)}
    held_out = generate(seed=0, count=100, unique=True, **small)
    train = generate(seed=1, count=500, exclude=held_out, **small)
    held_out_problems = {identity(row) for row in held_out}
    assert len(held_out_problems) == 100
    assert not held_out_problems & {identity(row) for row in train}
    assert identity({"nums": [3, 1], "target": 4}) == identity({"nums": [1, 3], "target": 4})


def test_unsolvable_problems_are_kept_on_request():
    rows = generate(seed=0, count=200, solvable=False)
    assert not all(solvable(row["nums"], row["target"]) for row in rows)


def test_a_space_that_runs_out_is_an_error_not_a_hang(monkeypatch):
    monkeypatch.setattr(countdown_generator, "_PATIENCE", 2000)
    with pytest.raises(ValueError, match="Only 9 of 1000 problems were found"):
        generate(seed=0, count=1000, numbers=(2,), largest=2, targets=(0, 4), unique=True)


def test_impossible_settings_are_reported_together():
    with pytest.raises(ValueError, match=r"(?s)count = -1.*numbers = \(0,\).*targets = \(9, 1\)"):
        generate(seed=0, count=-1, numbers=(0,), targets=(9, 1))
