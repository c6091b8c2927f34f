"""How long it takes to begin: imports, help, and compiling with and without a cache of programs."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlft_jax.bench.timing import Seconds, repeated

RLFT = [sys.executable, "-c", "from rlft_jax.main import run; raise SystemExit(run())"]
PROCESSES = {
    "python": [sys.executable, "-c", "pass"],
    "import_rlft_jax": [sys.executable, "-c", "import rlft_jax"],
    "rlft_help": [*RLFT, "help"],
}
# What a start spends on programs, of the figures that a short benchmark leaves.
COMPILING = ("trace_seconds", "compile_seconds", "all_compile_seconds", "programs_compiled")


def measure(bench: Sequence[str], *, steps: int) -> dict[str, Any]:
    """Times whole processes, and two starts of the same work from an empty cache of programs.

    Args:
        bench: Arguments of `rlft bench` that say which work it is.
        steps: Repetitions of what is short.
    """
    short = {
        f"{name}_seconds": Seconds.of(_processes(command, max(steps, 1))).median
        for name, command in PROCESSES.items()
    }
    with tempfile.TemporaryDirectory() as cache:
        first, second = _start(bench, cache), _start(bench, cache)
    gain = first["all_compile_seconds"] / second["all_compile_seconds"]
    return {**short, "first_start": first, "second_start": second, "compile_time_cut": gain}


def _processes(command: Sequence[str], times: int) -> list[float]:
    run = lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [repeated(run, times=1, warmup=number == 0).median for number in range(times)]


def _start(bench: Sequence[str], cache: str) -> dict[str, Any]:
    """One start with a cache of programs in a folder: seconds of the process, and of compiling.

    Raises:
        ValueError: If it fails, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bench.json")
        command = [*RLFT, "bench", *bench, "--steps=1", f"--json={out}"]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise ValueError(f"The work that is to be started fails.\n{done.stderr.strip()}")
        found = json.loads(out.read_text())
    return {"process_seconds": seconds} | {name: found[name] for name in COMPILING}
