"""Progress and tables for people at a terminal, and short plain lines for log files.

On several processes only the first one writes.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

# Without a terminal a line is written each time this share more is done.
SHARE = 0.1


@runtime_checkable
class Advance(Protocol):
    """Tells a bar how much more is done, and optionally what to show beside it."""

    def __call__(self, steps: int = 1, *, note: str | None = None) -> None: ...


@contextlib.contextmanager
def progress(
    description: str, total: int, *, unit: str = "steps", done: int = 0
) -> Iterator[Advance]:
    """Yields a function that moves a bar forward, with its rate and the time left.

    Goes to standard error: a bar in a terminal, a plain line each tenth of the way elsewhere.

    Args:
        description: What is going on.
        total: When it is done, counted in `unit`.
        unit: What is counted.
        done: How much was done before; it does not count for the rate.
    """
    if not is_first_process():
        yield _ignore
    elif sys.stderr.isatty():
        with _bar(description, total, unit, done) as advance:
            yield advance
    else:
        yield _lines(description, total, unit, done)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = ""
) -> None:
    """Prints a table to standard output: the first column is text, the others are figures."""
    if not is_first_process():
        return
    from rich.console import Console
    from rich.text import Text

    # Files have no width; wrapping figures to the 80 columns that rich assumes helps nobody.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_drawn(title, columns, rows))
    if caption:
        console.print(Text(caption, style="dim"))
    console.print()


def preview(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1
) -> None:
    """Shows a table above the bar to whoever watches: nothing of it goes to a log file.

    Args:
        texts: Columns of texts, which come first; the others are figures.
    """
    if is_first_process() and sys.stderr.isatty():
        _terminal().print(_drawn(title, columns, rows, texts=texts, show_lines=True))


def say(text: str) -> None:
    """Writes a line to standard error, above the bar if there is one."""
    if is_first_process():
        print(text, file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this process speaks for all: the first one, or the only one."""
    jax = sys.modules.get("jax")
    return jax is None or jax.process_index() == 0


def duration(seconds: int | float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> duration(75.4), duration(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@functools.cache
def _terminal() -> Any:
    """The one console on standard error: only what goes through a bar's own leaves it whole."""
    from rich.console import Console

    return Console(stderr=True)


def _drawn(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: int = 1,
    show_lines: bool = False,
) -> Any:
    from rich.table import Table
    from rich.text import Text

    # Text objects are printed as they are; in a plain string rich reads [44] as markup.
    drawn = Table(title=Text(title, style="bold"), title_justify="left", show_lines=show_lines)
    for i, column in enumerate(columns):
        drawn.add_column(Text(column), justify="left" if i < texts else "right")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


class _Pace:
    """How fast it goes, counted from now."""

    def __init__(self, total: int, done: int):
        self.total, self.first, self.done = total, done, done
        self.start = time.monotonic()

    @property
    def rate(self) -> float:
        """Per second; 0 as long as nothing is done."""
        return (self.done - self.first) / max(time.monotonic() - self.start, 1e-9)

    def __str__(self) -> str:
        if not self.rate:
            return ""
        left = max(self.total - self.done, 0) / self.rate
        # Slow things are told by how long one takes.
        speed = f"{self.rate:.1f}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"
        return f"{speed}, {duration(left)} left" if left else speed


@contextlib.contextmanager
def _bar(description: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(f"{escape(unit)}  {{task.fields[pace]}}  {{task.fields[note]}}"),
    )
    pace = _Pace(total, done)
    with Progress(*columns, console=_terminal(), refresh_per_second=4) as bars:
        bar = bars.add_task(escape(description), total=total, completed=done, pace="", note="")

        def advance(steps: int = 1, *, note: str | None = None) -> None:
            pace.done += steps
            bars.update(bar, advance=steps, pace=str(pace))
            if note is not None:
                bars.update(bar, note=escape(note))

        yield advance


def _lines(description: str, total: int, unit: str, done: int) -> Advance:
    pace = _Pace(total, done)
    due = done + SHARE * total

    def advance(steps: int = 1, *, note: str | None = None) -> None:
        nonlocal due
        pace.done += steps
        if pace.done >= min(due, total):
            due = pace.done + SHARE * total
            percent = 100 * pace.done // max(total, 1)
            extra = f"  {note}" if note else ""
            line = f"{description}: {pace.done}/{total} {unit} ({percent}%) {pace}{extra}"
            print(line, file=sys.stderr, flush=True)

    return advance


def _ignore(steps: int = 1, *, note: str | None = None) -> None:
    """Moves nothing."""
