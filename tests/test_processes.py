"""Facts about one run on several processes: it is the run that one process does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_run
from tests.tiny_run import Tiny, lines, saved

REPOSITORY = Path(__file__).parents[1]
RLFT = [sys.executable, "-c", "from rlft_jax.main import run; raise SystemExit(run())"]
LAUNCH = [sys.executable, str(REPOSITORY / "launch/local.py"), "--processes=2"]
TWO = [*LAUNCH, "--devices=1", "--"]
HELD_OUT = dict(data__holdout=5, every__evaluate=2)

pytestmark = pytest.mark.slow


def command(config: Any, folder: Path, workdir: Path) -> list[str]:
    """`rlft train` of a config, by way of a file."""
    file = folder / f"{workdir.name}.py"
    text = json.dumps(config.to_dict())
    file.write_text(f"import json\n\n\ndef get_config():\n    return json.loads({text!r})\n")
    return [*RLFT, "train", f"--config={file}", f"--workdir={workdir}"]


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        words,
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(words: list[str], folder: Path, *, code: int = 0) -> str:
    process = start(words, folder)
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == code, output
    return output


def assert_close_runs(actual: Path, expected: Path) -> None:
    """Metrics and parameters agree to the rounding of float32."""
    ours, theirs = lines(actual / "metrics.jsonl"), lines(expected / "metrics.jsonl")
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for one, other in zip(ours, theirs):
        for name, value in other.items():
            assert one[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (one["step"], name)
    ours, theirs = saved(actual), saved(expected)
    for path in theirs:
        if path.startswith("params"):
            np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("sft", dict(**HELD_OUT, evaluation__samples=1, evaluation__max_new_tokens=6)),
        (
            "rloo",
            dict(
                **HELD_OUT,
                evaluation__max_new_tokens=6,
                advantages__kl_weight=0.05,
                advantages__normalize=True,
                every__evaluate_first=True,
                rollout__minibatches=2,
                rollout__updates=2,
                optimizer__learning_rate=2e-3,
            ),
        ),
    ],
)
def test_two_processes_do_what_one_does(tiny, tmp_path, kind, changes):
    # Adam turns the rounding of a gradient near 0 into a whole step unless epsilon is above it.
    changes = dict(changes, optimizer__epsilon=1e-3)
    config = getattr(tiny, kind)(steps=4, log__tensorboard=False, **changes)
    one, two = tmp_path / "one", tmp_path / "two"
    finish(command(config, tmp_path, one), tmp_path)
    output = finish([*TWO, *command(config, tmp_path, two)], tmp_path)
    assert "on 2 device(s): data 1, fsdp 2" in output
    assert_close_runs(two, one)


def test_two_processes_of_two_devices_do_what_one_device_does(tiny, tmp_path):
    changes = dict(**HELD_OUT, evaluation__max_new_tokens=6, optimizer__learning_rate=2e-3)
    changes |= dict(advantages__kl_weight=0.05, optimizer__epsilon=1e-3)
    config = tiny.rloo(steps=4, log__tensorboard=False, **changes)
    one, four = tmp_path / "one", tmp_path / "four"
    finish(command(config, tmp_path, one), tmp_path)
    output = finish([*LAUNCH, "--devices=2", "--", *command(config, tmp_path, four)], tmp_path)
    assert "on 4 device(s): data 1, fsdp 4" in output
    assert_close_runs(four, one)


def test_a_reward_that_fails_on_one_process_stops_both_with_the_state_saved(tiny, tmp_path):
    file = tmp_path / "reward.py"
    config = tiny.rloo(
        every__save=100, log__tensorboard=False, reward__functions=[(f"{file}:digits", 1.0)]
    )
    words = [*TWO, *command(config, tmp_path, tmp_path / "run")]
    # Process 1 fails once there is a metric of two steps.
    metrics = str(tmp_path / "run/metrics.jsonl")
    tiny_run.write_reward(
        file,
        before=f"assert os.environ['RLFT_PROCESS_ID'] == '0' or"
        f" not os.path.exists({metrics!r}) or open({metrics!r}).read().count('\\n') < 2, 'oops'",
    )
    output = finish(words, tmp_path, code=2)
    assert "oops" in output
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert checkpoint.name in ("00000002", "00000003")
    tiny_run.write_reward(file)
    finish(words, tmp_path)
    assert [x["step"] for x in lines(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_run_directory_is_for_one_run_at_a_time_and_sigterm_gives_it_back(tiny: Tiny, tmp_path):
    config = tiny.sft(steps=100_000, every__save=10_000, log__tensorboard=False)
    words = command(config, tmp_path, tmp_path / "run")
    first = start(words, tmp_path)
    try:
        while not (tmp_path / "run/metrics.jsonl").exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        output = finish(words, tmp_path, code=2)
        assert f"in use by process {first.pid} on " in output
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 75
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert lines(tmp_path / "run/metrics.jsonl")[-1]["step"] == int(checkpoint.name)
