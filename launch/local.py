#!/usr/bin/env python3
"""Runs N processes of one command on this machine, as one run under jax.distributed.

    python launch/local.py --processes=2 -- rlft train --config=configs/NAME.py --workdir=DIR

Each line that process 1 prints appears as `[1] ...`. If one process fails the others are ended,
and the launcher returns its exit code. SIGTERM and Ctrl-C are passed on as SIGTERM, so that the
run saves itself; a second Ctrl-C ends everything at once. No process outlives the launcher.
Needs nothing but Python.
"""

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# jax.distributed catches SIGTERM, and a process that waits for one that died never looks.
SECONDS_AFTER_FAILURE = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or the exit code of the first process that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--processes", type=int, default=2, help="how many (default: 2)")
    add("--devices", type=int, default=1, help="devices of each; on CPU simulated (default: 1)")
    add("--grace", type=float, default=60, help="seconds to save in when stopped (default: 60)")
    add("command", nargs="+", help="what to run, after --")
    given = parser.parse_args(arguments)
    if given.processes < 1 or given.devices < 1 or given.grace < 0:
        parser.error("--processes and --devices must be at least 1, and --grace at least 0")
    if shutil.which(given.command[0]) is None:
        parser.error(f"{given.command[0]} is not a command here")
    return Launch(given.command, given.processes, given.devices).wait(grace=given.grace)


class Launch:
    """The processes, from their start to the end of the last."""

    def __init__(self, command: Sequence[str], processes: int, devices: int) -> None:
        self._requests = 0  # to stop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        coordinator = f"127.0.0.1:{free_port()}"
        self._running = [
            start(command, environment(os.environ, coordinator, processes, number, devices))
            for number in range(processes)
        ]
        # Threads come after the last fork: a child must not inherit their locks.
        self._printers = [
            threading.Thread(target=prefix_lines, args=(number, child), daemon=True)
            for number, child in enumerate(self._running)
        ]
        for printer in self._printers:
            printer.start()

    def wait(self, *, grace: float) -> int:
        """Returns 0, or the exit code of the first process that failed, when all have ended."""
        result, seen, deadline = 0, 0, float("inf")
        while self._running:
            failed = self._reap()
            if self._requests > seen:
                seen = self._requests
                self._signal(signal.SIGTERM if seen == 1 else signal.SIGKILL)
                deadline = min(deadline, time.monotonic() + grace)
            if failed and not result:
                result = failed
                if not seen:  # otherwise they are about to end, each with its own code
                    self._signal(signal.SIGTERM)
                    deadline = time.monotonic() + min(grace, SECONDS_AFTER_FAILURE)
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(0.05)
        for printer in self._printers:
            printer.join(timeout=5)
        return result

    def _reap(self) -> int:
        """Takes those that have ended off the list; returns the first exit code that is not 0."""
        ended = [child for child in self._running if child.poll() is not None]
        for child in ended:
            self._running.remove(child)
            kill_group(child, signal.SIGKILL)  # what it has left behind
        codes = [child.returncode for child in ended if child.returncode]
        # As a shell says it: 137 is the end by SIGKILL.
        return 0 if not codes else codes[0] if codes[0] > 0 else 128 - codes[0]

    def _signal(self, number: signal.Signals) -> None:
        for child in self._running:
            kill_group(child, number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requests += 1


def environment(
    base: Mapping[str, str], coordinator: str, processes: int, process: int, devices: int
) -> dict[str, str]:
    """What tells one process its place among the others, and its devices."""
    first = process * devices
    return {
        **base,
        "RLFT_COORDINATOR": coordinator,
        "RLFT_PROCESSES": str(processes),
        "RLFT_PROCESS_ID": str(process),
        # Each its own accelerators; on CPU it gets as many as it asks for.
        "JAX_LOCAL_DEVICE_IDS": ",".join(str(first + i) for i in range(devices)),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts one process, in a group of its own, which ends when this one does."""
    launcher = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_launcher() -> None:
        if libc:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # it died before it could be watched
                os._exit(1)

    return subprocess.Popen(
        command,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        process_group=0,
        preexec_fn=die_with_launcher,
    )


def kill_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    """Sends a signal to a process and to those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def prefix_lines(number: int, child: subprocess.Popen[str]) -> None:
    """Prints what a process prints, each line whole and with its number."""
    assert child.stdout is not None
    for line in child.stdout:
        sys.stdout.write(f"[{number}] {line.rstrip()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
