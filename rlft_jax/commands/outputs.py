"""The files that a command writes, open before the work begins."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

from rlft_jax.commands.requests import line_of
from rlft_jax.files import written_whole


class Outputs(NamedTuple):
    """Where an evaluation writes what it found, and the completions that it found it on."""

    figures: IO[str] | None
    completions: IO[str] | None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes all figures, if there is a file for them."""
        if self.figures is not None:
            self.figures.write(json.dumps(result, indent=2) + "\n")

    def record(self, row: Mapping[str, Any]) -> None:
        """Writes a completion, if there is a file for them."""
        if self.completions is not None:
            self.completions.write(line_of(row))


@contextlib.contextmanager
def outputs(out: str | None, completions: str | None) -> Iterator[Outputs]:
    """Opens the files that were asked for; they take their names once all is written.

    Hours of sampling shall not end with a folder that cannot be written to.
    """
    with contextlib.ExitStack() as files:
        paths = (out, completions)
        yield Outputs(
            *(None if p is None else files.enter_context(written_whole(p)) for p in paths)
        )
