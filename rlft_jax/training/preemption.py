"""Being asked to stop: save, leave with a code of its own, and go on another time."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again and it goes on.
EXIT_PREEMPTED = 75


class Preemption:
    """Notices SIGTERM and Ctrl-C while it is entered; `should_stop` tells when to act on them.

        with Preemption() as preemption:
            ...
            if preemption.should_stop(step):
                checkpoints.save(step, ...)
                raise SystemExit(EXIT_PREEMPTED)

    A second Ctrl-C ends the process at once, which no checkpoint minds. With several processes
    jax.distributed listens for SIGTERM by itself, and Ctrl-C is left as it was: `launch/local.py`
    passes it on as SIGTERM.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:
            self._before = {
                number: signal.signal(number, self._on_signal)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def should_stop(self, step: int) -> bool:
        """Whether to stop after `step`: the same answer on all processes.

        Ask after every step. With several processes the answer comes a few steps after the
        signal, when they have agreed on one.
        """
        if jax.process_count() == 1:
            return self._asked.is_set()
        return multihost_utils.reached_preemption_sync_point(step)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
