"""Rows from files, folders and the hub, and their division into training and held-out rows."""

import gzip
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
from datasets.exceptions import DatasetsError

from rlft_jax.data.tokenizer import HUB_NAME
from rlft_jax.tasks.problem import Row


class Rows(Sequence[Row]):
    """Some rows of a table, in an order; they stay where they are until they are asked for.

    Attributes:
        numbers: Which rows of the data set they are, counted from 0.
    """

    def __init__(self, table: Any, which: Sequence[int] | np.ndarray):
        self._table, self._which = table, which
        self.numbers = [table.numbers[i] for i in which] if isinstance(table, Rows) else which

    def place(self, index: int) -> str:
        """Where a row stands: "line 7" of a JSON Lines file, counted from 1, or else "row 6"."""
        number = int(self._which[index])
        if isinstance(self._table, Rows):
            return self._table.place(number)
        if isinstance(self._table, _Lines):
            return f"line {self._table.lines[number]}"
        return f"row {number}"

    def __len__(self) -> int:
        return len(self._which)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        if isinstance(index, slice):
            return Rows(self._table, self._which[index])
        return self._table[int(self._which[index])]


def read_rows(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    setting: str = "path",
) -> Rows:
    """Returns the rows of a file, a folder or a data set of the hub.

    Args:
        path: A .jsonl, .json or .parquet file (.gz after the first two is fine), a folder that
            `datasets` wrote or can load, or a hub name.
        split: Which split of a folder or hub data set, or a slice such as "train[:1000]". A file
            has one split, whatever its name, which can be sliced by rows.
        subset: Which configuration of a hub data set, where it has several.
        limit: Read the first rows only.
        setting: What the user named the path with, for errors.

    Raises:
        ValueError: If there is no such data, it cannot be read, or it has no rows.
    """
    name = os.fspath(path)
    why = absence(name)
    if why is not None:
        raise ValueError(f"{setting} = {name!r} {why}.")
    source = pathlib.Path(name).expanduser()
    try:
        if source.is_file():
            chosen = _slice(split)
            table = _read_file(source, limit if chosen == slice(None) else None)
        else:
            chosen, table = slice(None), _load_dataset(name, source, split, subset)
    except _Unreadable as error:
        raise ValueError(f"{setting} = {name!r} {error}") from error
    rows = Rows(table, range(len(table))[chosen][:limit])
    if not rows:
        raise ValueError(f"{setting} = {name!r} has no rows (split = {split}, limit = {limit}).")
    return rows


def absence(name: str) -> str | None:
    """Why there can be no data of this name; None if it is here, or may be on the hub."""
    source = pathlib.Path(name).expanduser()
    if source.is_file() or source.is_dir():
        return None
    if source.suffix in (*_READERS, ".gz"):
        return "does not exist"
    return None if HUB_NAME.fullmatch(name) else "is not a file or folder, nor can it be a hub name"


class _Unreadable(ValueError):
    """Why data cannot be read, to be told after its name."""


class _Lines(list[Row]):
    """The rows of a JSON Lines file, and the lines on which they stand."""

    def __init__(self, rows: Iterable[Row], lines: Sequence[int]):
        super().__init__(rows)
        self.lines = lines


def _slice(split: str) -> slice:
    """The rows of a file that "train[1200:2000]" means; all for "train"."""
    found = re.fullmatch(r"\w+(?:\[(\d*):(\d*)\])?", split)
    if not found:
        raise _Unreadable(f"has no split {split!r}: it is a file. Write train[1200:2000].")
    start, stop = (int(text) if text else None for text in found.groups())
    return slice(start, stop)


def split_holdout(rows: Sequence[Row], holdout: int | float, *, seed: int) -> tuple[Rows, Rows]:
    """Returns rows to train on and rows held out, both in the order of the data.

    Args:
        rows: What to divide. Equal rows can end up on both sides.
        holdout: How many rows to hold out, or, below 1, which share of them.
        seed: Chooses them.

    Raises:
        ValueError: If nothing would be left to train on.

    >>> train, heldout = split_holdout([{"n": n} for n in range(5)], 2, seed=0)
    >>> len(train), len(heldout)
    (3, 2)
    """
    count = holdout_size(holdout, len(rows))
    chosen = np.zeros(len(rows), bool)
    chosen[np.random.default_rng(seed).permutation(len(rows))[:count]] = True
    return Rows(rows, np.flatnonzero(~chosen)), Rows(rows, np.flatnonzero(chosen))


def holdout_size(holdout: int | float, rows: int) -> int:
    """Returns how many of `rows` rows a number of rows, or below 1 a share of them, is.

    Raises:
        ValueError: If nothing would be left of them.
    """
    count = round(holdout * rows) if holdout < 1 else int(holdout)
    if not 0 <= count < rows or count != holdout >= 1:
        raise ValueError(
            f"config.data.holdout = {holdout} cannot be taken from {rows} rows. Set a whole number"
            " of rows, fewer than there are, or a share below 1."
        )
    return count


def _read_file(path: pathlib.Path, limit: int | None) -> list[Row]:
    """Reads a file by its name's ending."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    reader = _READERS.get(plain.suffix)
    if reader is None or (path.suffix == ".gz" and plain.suffix == ".parquet"):
        raise _Unreadable(
            "has an unknown ending. Known are .jsonl, .jsonl.gz, .json, .json.gz and .parquet."
        )
    try:
        return reader(path, limit)
    except (OSError, EOFError, UnicodeDecodeError, pyarrow.ArrowInvalid) as error:
        raise _Unreadable(f"cannot be read: {error}") from error


def _lines(path: pathlib.Path) -> Iterator[str]:
    """Yields the lines of a text file, unpacked if it is a .gz."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        yield from file


def _read_jsonl(path: pathlib.Path, limit: int | None) -> list[Row]:
    rows, lines = [], []
    for number, line in enumerate(_lines(path), start=1):
        if len(rows) == limit:
            break
        if line.strip():
            rows.append(_row(_parse(line, f"{path}, line {number}"), f"{path}, line {number}"))
            lines.append(number)
    return _Lines(rows, lines)


def _read_json(path: pathlib.Path, limit: int | None) -> list[Row]:
    rows = _parse("".join(_lines(path)), str(path))
    if not isinstance(rows, list):
        raise ValueError(
            f"{path} holds a JSON {type(rows).__name__}, not a list of rows. If each line is a row,"
            " call it .jsonl."
        )
    return [_row(row, f"{path}, row {n}") for n, row in enumerate(rows[:limit])]


def _read_parquet(path: pathlib.Path, limit: int | None) -> list[Row]:
    table = pyarrow.parquet.read_table(path)
    return table.slice(0, limit).to_pylist()


_READERS: dict[str, Callable[[pathlib.Path, int | None], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}.") from error


def _row(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{place} holds {type(row).__name__} instead of a row of named columns.")
    return row


def _load_dataset(
    name: str, folder: pathlib.Path, split: str, subset: str | None
) -> datasets.Dataset:
    """Loads a data set of a folder, or where there is none of the hub."""
    is_saved = any((folder / file).exists() for file in ("state.json", "dataset_dict.json"))
    place = str(folder) if folder.is_dir() else name
    try:
        if is_saved:
            loaded = datasets.load_from_disk(place)
        else:
            loaded = datasets.load_dataset(place, subset, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise _Unreadable(f"with split {split!r} cannot be read: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise _Unreadable(f"has no split {split!r}; it has {list(loaded)}.")
        loaded = loaded[split]
    assert isinstance(loaded, datasets.Dataset)
    return loaded
