"""The data sets that commands measure on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlft_jax.data.bad_rows import map_rows
from rlft_jax.data.readers import Rows, read_rows
from rlft_jax.tasks.problem import Row

Made = TypeVar("Made")


def check_limit(limit: int | None) -> None:
    """Refuses a limit that leaves nothing."""
    if limit is not None and limit < 1:
        raise ValueError(f"--limit={limit} leaves no row. Set 1 or more, or leave it out.")


def refuse_without_effect(flags: Mapping[str, Any], why: str) -> None:
    """Refuses flags that were given and would change nothing."""
    given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    if given:
        raise ValueError(
            f"{' and '.join(given)} {'has' if len(given) == 1 else 'have'} no effect {why}."
        )


def read_named(data: str, *, split: str, subset: str | None, limit: int | None) -> tuple[Rows, str]:
    """Returns the rows of a file, folder or hub data set, and what to call them in a report.

    Raises:
        ValueError: If they cannot be read, or the limit leaves none.
    """
    check_limit(limit)
    rows = read_rows(data, split=split, subset=subset, limit=limit, setting="--data")
    is_whole_file = Path(data).is_file() and "[" not in split
    return rows, data if is_whole_file else ", ".join(filter(None, [data, subset, split]))


def made_of(rows: Sequence[Row], make: Callable[[Row], Made], *, data: str) -> list[Made]:
    """Returns what `make` makes of every row.

    Raises:
        ValueError: If it cannot of some, naming the data and the first few of them.
    """
    try:
        return map_rows(make, rows)
    except ValueError as error:
        raise ValueError(f"--data = {data!r}: {error}") from error
