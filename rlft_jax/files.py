"""Files that are there whole or not at all."""

import contextlib
import errno
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO, Any


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str], *, binary: bool = False) -> Iterator[IO[Any]]:
    """Yields a file, of text or bytes, that takes its name once it is complete and on the disk.

    Whatever stops the writing, the file of before stays, and no part of the new one is left.
    Folders on the way to it are made.
    """
    path = pathlib.Path(path)
    if path.is_dir():  # known now, and not when all is written
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename across file systems is a copy.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        new = draft.open("xb") if binary else draft.open("x", encoding="utf-8", newline="\n")
        with new as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Returns once a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
