"""Draws Countdown problems from the published distribution."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from rlft_jax.tasks.countdown_solver import solvable as has_solution
from rlft_jax.tasks.problem import Row

_PATIENCE = 50_000  # draws without a new problem before giving up; 1 in 25 is one normally

Identity = tuple[tuple[int, ...], int]


def generate(
    *,
    seed: int,
    count: int,
    numbers: Sequence[int] = (3, 4),
    smallest: int = 1,
    largest: int = 99,
    targets: tuple[int, int] = (10, 100),
    solvable: bool = True,
    unique: bool = False,
    exclude: Iterable[Row] = (),
) -> list[dict[str, Any]]:
    """Draws `count` rows {"nums", "target"}; the defaults are the published distribution.

    How many numbers, the numbers and the target are uniform and independent, and what has no
    solution is drawn again (rejection within each count of numbers, so their shares stay
    equal). 20,000 problems take about 8 seconds. For disjoint sets, generate the held-out rows
    first and exclude them from the others.

    Args:
        seed: The same seed gives the same rows.
        count: How many rows.
        numbers: How many numbers a problem may have, with equal shares.
        smallest: Least number.
        largest: Greatest number.
        targets: Least and greatest target.
        solvable: Whether to keep only what can be solved with whole intermediate results, as
            in the published set.
        unique: Whether no two rows may be the same problem, as `identity` defines it.
        exclude: Rows whose problems may not be drawn.

    Raises:
        ValueError: If the settings leave nothing to draw, or not enough.
    """
    _check(count, numbers, (smallest, largest), targets)
    draws = random.Random(seed)
    taken = {identity(row) for row in exclude}
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        size = draws.choice(numbers)
        for _ in range(_PATIENCE):
            nums = [draws.randint(smallest, largest) for _ in range(size)]
            row = {"nums": nums, "target": draws.randint(*targets)}
            if identity(row) not in taken and (not solvable or has_solution(nums, row["target"])):
                break
        else:
            raise ValueError(
                f"Only {len(rows)} of {count} problems were found: {_PATIENCE} draws of {size}"
                f" numbers from {smallest} to {largest} with targets {targets[0]} to {targets[1]}"
                " gave no new one. Ask for fewer, or widen the numbers or targets."
            )
        rows.append(row)
        if unique:
            taken.add(identity(row))
    return rows


def identity(row: Row) -> Identity:
    """What makes two rows the same problem: their numbers in any order, and their target."""
    return tuple(sorted(row["nums"])), row["target"]


def _check(
    count: int, numbers: Sequence[int], span: tuple[int, int], targets: tuple[int, int]
) -> None:
    problems = []
    if count < 0:
        problems.append(f"count = {count} is below 0.")
    if not numbers or min(numbers) < 1:
        problems.append(f"numbers = {tuple(numbers)} must name counts of 1 or more.")
    if not 0 <= span[0] <= span[1]:
        problems.append(f"smallest = {span[0]} to largest = {span[1]} is no range from 0 up.")
    if targets[0] > targets[1]:
        problems.append(f"targets = {targets} must be (least, greatest).")
    if problems:
        raise ValueError("Cannot generate Countdown problems:\n- " + "\n- ".join(problems))
