"""The data sets that commands measure on."""

from pathlib import Path

from rlft_jax.data.readers import Rows, read_rows


def check_limit(limit: int | None) -> None:
    """Refuses a limit that leaves nothing."""
    if limit is not None and limit < 1:
        raise ValueError(f"--limit={limit} leaves no row. Set 1 or more, or leave it out.")


def read_named(data: str, *, split: str, subset: str | None, limit: int | None) -> tuple[Rows, str]:
    """Returns the rows of a file, folder or hub data set, and what to call them in a report.

    Raises:
        ValueError: If they cannot be read, or the limit leaves none.
    """
    check_limit(limit)
    rows = read_rows(data, split=split, subset=subset, limit=limit)
    is_whole_file = Path(data).is_file() and "[" not in split
    return rows, data if is_whole_file else ", ".join(filter(None, [data, subset, split]))
