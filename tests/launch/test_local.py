"""Facts about running several processes on one machine."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = REPOSITORY / "launch" / "local.py"


def launch(script: str, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, LAUNCHER, *flags, "--", sys.executable, "-c", script]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )


def run(script: str, *flags: str) -> tuple[int, list[str], str]:
    launcher = launch(script, *flags)
    try:
        output, errors = launcher.communicate(timeout=120)
    finally:
        launcher.kill()  # and with it, its children
    return launcher.returncode, sorted(output.splitlines()), errors


def test_every_line_says_which_process_it_is_from():
    script = (
        "import os, sys; me = os.environ['RLFT_PROCESS_ID']\n"
        "for i in range(2): print(me, 'of', os.environ['RLFT_PROCESSES'], i)\n"
        "sys.stderr.write('no end of line')"
    )
    code, lines, errors = run(script, "--processes=3")
    expected = [f"[{me}] {me} of 3 {i}" for me in range(3) for i in range(2)]
    assert lines == sorted(expected + [f"[{me}] no end of line" for me in range(3)])
    assert (code, errors) == (0, "")


def test_lines_of_different_processes_are_not_mixed():
    script = "import os\nfor _ in range(300): print(os.environ['RLFT_PROCESS_ID'] * 500)"
    _, lines, _ = run(script, "--processes=2")
    assert lines == ["[0] " + "0" * 500] * 300 + ["[1] " + "1" * 500] * 300


def test_each_process_has_its_own_devices():
    script = "import os; print(os.environ['JAX_LOCAL_DEVICE_IDS'], os.environ['RLFT_COORDINATOR'])"
    _, lines, _ = run(script, "--processes=2", "--devices=2")
    (one, first), (two, second) = (line[4:].split() for line in lines)
    assert (one, two) == ("0,1", "2,3")
    assert first == second
    assert first.startswith("127.0.0.1:")


def test_one_that_fails_ends_the_others_though_they_ignore_sigterm():
    script = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.environ['RLFT_PROCESS_ID'] == '1': sys.exit(3)\n"
        "time.sleep(600)"
    )
    began = time.monotonic()
    code, _, _ = run(script, "--processes=3", "--grace=0.2")
    assert code == 3
    assert time.monotonic() - began < 60


def test_one_that_is_killed_counts_as_a_shell_counts_it():
    code, _, _ = run("import os; os.kill(os.getpid(), 9)", "--processes=2")
    assert code == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_passed_on_as_sigterm_and_the_code_comes_back(number):
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))\n"
        "print('ready'); time.sleep(600)"
    )
    launcher = launch(script, "--processes=2")
    assert sorted(launcher.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=60)
    assert sorted(output.splitlines()) == ["[0] saved", "[1] saved"]
    assert launcher.returncode == 75


def test_a_second_request_kills():
    script = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked'))\n"
        "print('ready')\n"
        "while True: time.sleep(600)"
    )
    launcher = launch(script, "--processes=1")
    assert launcher.stdout.readline() == "[0] ready\n"
    launcher.send_signal(signal.SIGINT)
    assert launcher.stdout.readline() == "[0] asked\n"
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 137


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_no_process_outlives_the_launcher():
    launcher = launch("import os, time; print(os.getpid()); time.sleep(600)", "--processes=2")
    children = [int(launcher.stdout.readline().split()[1]) for _ in range(2)]
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate(timeout=60)  # the end of their output is the end of them
    for _ in range(100):
        if not any(is_running(child) for child in children):
            break
        time.sleep(0.1)
    left = [child for child in children if is_running(child)]
    for child in left:
        os.kill(child, signal.SIGKILL)
    assert not left


def is_running(process: int) -> bool:
    """Whether a process is there, and not just waiting for somebody to take note of its end."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes=0", "--", "true"], "--processes and --devices must be at least 1"),
        (["--", "no-such-command-here"], "no-such-command-here is not a command"),
        (["--processes=2"], "required: command"),
    ],
)
def test_mistakes_are_said_without_a_traceback(arguments, said):
    command = [sys.executable, LAUNCHER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_it_needs_nothing_but_python():
    done = subprocess.run(
        [sys.executable, "-I", "-S", LAUNCHER, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "--processes" in done.stdout


CHECKPOINTS_OF_TWO = """
import sys, os, signal, time
from pathlib import Path
from rlft_jax.training.processes import initialize_from_environment
initialize_from_environment()
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rlft_jax.training.checkpoint import Checkpoints
from rlft_jax.training.preemption import EXIT_PREEMPTED, Preemption

me = jax.process_index()
assert multihost_utils.process_allgather(np.int32(me + 1)).sum() == 3
mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
full = np.arange(24, dtype=np.float32).reshape(4, 6)
state = {
    "w": jax.make_array_from_callback(full.shape, split, lambda index: full[index]),
    "step": jax.make_array_from_callback((), whole, lambda _: np.int32(5)),
}
checkpoints = Checkpoints(sys.argv[1], keep_last=1)
assert checkpoints.latest() is None
checkpoints.save(4, state, {"position": me}, extra={"config": "abc"})
checkpoints.save(5, state, {"position": me}, extra={"config": "abc"})
assert checkpoints.steps() == [5]
like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)
again = Checkpoints(sys.argv[1])
restored = again.restore(again.latest(), like)
np.testing.assert_array_equal(restored.state["w"], full)
assert restored.source == {"position": me}
print("restored", flush=True)
with Preemption() as preemption:
    if me == 1:
        os.kill(os.getpid(), signal.SIGTERM)  # one is told, both stop, at the same step
    for step in range(6, 2000):
        time.sleep(0.02)
        if preemption.should_stop(step):
            Path(sys.argv[1], f"stopped_{me}").write_text(str(step))
            raise SystemExit(EXIT_PREEMPTED)
"""


@pytest.mark.slow
def test_two_processes_save_restore_and_stop_together(tmp_path):
    import jax
    import numpy as np

    from rlft_jax.training.checkpoint import Checkpoints

    script = tmp_path / "script.py"
    script.write_text(CHECKPOINTS_OF_TWO)
    folder = tmp_path / "checkpoints"
    command = [sys.executable, LAUNCHER, "--processes=2", "--", sys.executable, script, folder]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 75, done.stdout + done.stderr
    stopped = [int((folder / f"stopped_{me}").read_text()) for me in range(2)]
    assert 6 < stopped[0] == stopped[1] < 1999

    # One process reads what two have written, except where each was in its data.
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {"w": jax.ShapeDtypeStruct((4, 6), np.float32, sharding=one)}
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() == 5
    np.testing.assert_array_equal(
        checkpoints.restore_arrays(5, like)["w"], np.arange(24).reshape(4, 6)
    )
    with pytest.raises(ValueError, match="saved by 2 processes"):
        checkpoints.restore(5, like)


def test_the_launcher_is_one_file_that_others_may_import():
    spec = importlib.util.spec_from_file_location("local", LAUNCHER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = module.environment({"A": "b"}, "host:1", 4, 3, 2)
    assert given["A"] == "b"
    assert given["JAX_LOCAL_DEVICE_IDS"] == "6,7"
