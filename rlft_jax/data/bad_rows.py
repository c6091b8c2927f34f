"""Rows that cannot be used: all that is wrong with the first few of them, in one error."""

from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from rlft_jax.data.readers import Rows
from rlft_jax.tasks.problem import Row

Made = TypeVar("Made")

# Bad rows to show before giving up: a wrong format spoils all of them.
SHOWN = 5


def map_rows(make: Callable[[Row], Made], rows: Sequence[Row]) -> list[Made]:
    """Returns what `make` makes of every row.

    Raises:
        ValueError: If it raises one, naming the first few such rows by their places in the data.
    """
    made, wrong = [], []
    for place, row in enumerate(rows):
        try:
            made.append(make(row))
        except ValueError as error:
            where = rows.place(place) if isinstance(rows, Rows) else f"row {place}"
            wrong.append(f"{where}: {error}")
            if len(wrong) == SHOWN:
                break
    if wrong:
        refuse(wrong)
    return made


def columns_of(row: Row) -> str:
    """Returns the names and types of a row's columns, for an error.

    >>> columns_of({"text": "Hi", "n": 1})
    'text (str), n (int)'
    """
    names = (f"{name} ({type(value).__name__})" for name, value in row.items())
    return ", ".join(names) or "(none)"


def refuse(wrong: Sequence[str]) -> NoReturn:
    """Raises the error that shows the first few of what is wrong, each with the place of its row.

    Raises:
        ValueError: Always.
    """
    shown = "\n".join(f"- {problem}" for problem in wrong[:SHOWN])
    more = f"\nThere may be more: only the first {SHOWN} are shown." if len(wrong) >= SHOWN else ""
    raise ValueError(f"some rows cannot be used (rows count from 0):\n{shown}{more}")
