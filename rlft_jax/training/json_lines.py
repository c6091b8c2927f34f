"""A log of JSON lines that can be cut back to a step, so that a resumed run repeats no line."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends lines to a file, each with the step that it is about; steps never go back.

    Args:
        after: The step that the run goes on from. Lines about later steps, and a line that was
            being written when its process died, are cut off.
    """

    def __init__(self, path: Path, *, after: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        keep = _prefix(self._file.readlines(), path, after)
        # Cutting the end off is one step for the file system: there is no half of it to find.
        self._file.truncate(keep)
        self.sync()

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one line, `step` first and the rest sorted by name."""
        line = {"step": step, **dict(sorted(values.items()))}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Returns once all lines are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the log, with all lines on the disk."""
        self.sync()
        self._file.close()


def _prefix(lines: list[bytes], path: Path, after: int) -> int:
    """How many bytes of the lines to keep: those before the first that is later or torn."""
    size = 0
    for number, line in enumerate(lines, 1):
        try:
            step = json.loads(line)["step"] if line.endswith(b"\n") else None
        except (ValueError, KeyError, TypeError):
            step = None
        if step is None and number < len(lines):
            logging.getLogger(__name__).error(
                "Line %d of %s is damaged; it and all lines after it are cut off.", number, path
            )
        if step is None or step > after:
            break
        size += len(line)
    return size
