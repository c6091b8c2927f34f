"""What compiling a program took, and the memory that it will need."""

import time
from typing import Any, NamedTuple

import jax

MEMORY = {
    "arguments": "argument_size_in_bytes",
    "outputs": "output_size_in_bytes",
    "temporary": "temp_size_in_bytes",
    "shared_by_arguments_and_outputs": "alias_size_in_bytes",
}


class Compiled(NamedTuple):
    """A program and its cost.

    Attributes:
        program: Takes what it was compiled for.
        trace_seconds: From Python to the compiler's input.
        seconds: From there to a program, or from the cache of programs.
        memory: Bytes on a device by kind, as the compiler plans them; empty where it does not say.
    """

    program: Any
    trace_seconds: float
    seconds: float
    memory: dict[str, int]

    @classmethod
    def of(cls, jitted: Any, *arguments: Any) -> "Compiled":
        """Compiles for arguments, or for their shapes."""
        start = time.perf_counter()
        lowered = jitted.lower(*arguments)
        traced = time.perf_counter()
        program = lowered.compile()
        seconds = time.perf_counter() - traced
        planned = program.memory_analysis()
        memory = {} if planned is None else {k: getattr(planned, v) for k, v in MEMORY.items()}
        return cls(program, traced - start, seconds, memory)


def peak_bytes() -> int | None:
    """The most memory that a device has had in use so far; None where it does not say."""
    peaks = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
    ]
    return max((peak for peak in peaks if peak is not None), default=None)
