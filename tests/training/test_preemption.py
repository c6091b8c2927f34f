"""Facts about being asked to stop."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlft_jax.training.preemption import EXIT_PREEMPTED, Preemption

REPOSITORY = Path(__file__).parents[2]
TRAINS = """
import time
from rlft_jax.training.preemption import EXIT_PREEMPTED, Preemption
with Preemption() as preemption:
    print("training", flush=True)
    while True:
        time.sleep(0.01)
        if preemption.should_stop(1):
            print("saving", flush=True)
            time.sleep(SAVING)
            raise SystemExit(EXIT_PREEMPTED)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_and_interrupts_nothing(number):
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.should_stop(1)
        os.kill(os.getpid(), number)
        assert preemption.should_stop(2)
        assert preemption.should_stop(3)
    assert signal.getsignal(number) is before


def test_the_exit_code_says_try_again():
    assert EXIT_PREEMPTED == os.EX_TEMPFAIL


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM], EXIT_PREEMPTED),
        ([signal.SIGTERM, signal.SIGTERM], EXIT_PREEMPTED),  # a second leaves the saving alone
        ([signal.SIGINT, signal.SIGINT], -signal.SIGINT),
    ],
)
def test_the_second_ctrl_c_ends_the_process_at_once(signals, code):
    seconds = "0.5" if code == EXIT_PREEMPTED else "600"
    script = TRAINS.replace("SAVING", seconds)
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        for number, line in zip(signals, ["training\n", "saving\n"]):
            assert child.stdout.readline() == line
            child.send_signal(number)
        assert child.wait(timeout=60) == code
    finally:
        child.kill()
        child.communicate()
