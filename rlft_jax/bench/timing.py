"""Seconds, taken so that they mean something: after a warm-up, and when the devices are done."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.monitoring

COMPILED = "/jax/core/compile/backend_compile_duration"


class Seconds(NamedTuple):
    """Of repeated measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Seconds":
        """Of at least one measurement."""
        return cls(statistics.median(values), min(values), max(values))


def repeated(act: Callable[[], Any], *, times: int, warmup: int = 1) -> Seconds:
    """How long `act` takes until all that it returned has been computed."""
    taken = []
    for _ in range(warmup + times):
        start = time.perf_counter()
        jax.block_until_ready(act())
        taken.append(time.perf_counter() - start)
    return Seconds.of(taken[warmup:])


class Stopwatch:
    """Adds up the seconds of named parts of a step; those of a part in a part are its own only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times what happens inside."""
        start, before = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - before
            own = time.perf_counter() - start - inside
            self.seconds[name] = self.seconds.get(name, 0.0) + own

    def timed(self, name: str, function: Callable) -> Callable:
        """The same function, its results waited for."""

        def call(*arguments: Any, **settings: Any) -> Any:
            with self.part(name):
                return jax.block_until_ready(function(*arguments, **settings))

        return call

    def lap(self) -> dict[str, float]:
        """What was taken since the last lap."""
        taken, self.seconds = self.seconds, {}
        return taken


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """Yields a list of the seconds of every program compiled, or read from a cache, inside."""
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
