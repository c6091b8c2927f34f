"""Facts about runs that were stopped or killed: going on gives what no stop would have given."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlft_jax.runs import experiment
from tests import tiny_run
from tests.tiny_run import SHARED_ROLLOUT, Tiny, assert_same_end, run

MAKE: dict[str, Callable[..., Any]] = {
    "sft": lambda tiny, **more: tiny.sft(**more),
    "sft with adapters that drop": lambda tiny, **more: tiny.sft(
        lora__rank=4, lora__dropout=0.1, **more
    ),
    "rloo": lambda tiny, **more: tiny.rloo(steps=8, **SHARED_ROLLOUT, **more),
    "sft measured first": lambda tiny, **more: tiny.sft(
        data__holdout=8, every__evaluate=3, every__evaluate_first=True, every__log=4, **more
    ),
    "rloo of adapters that overlaps": lambda tiny, **more: tiny.rloo(
        steps=8,
        **SHARED_ROLLOUT,
        lora__rank=4,
        rollout__overlap=True,
        objective__importance_cap=2.0,
        **more,
    ),
}


class Pulled(Exception):
    """The plug, in a test."""


def run_until(step: int, config: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, and ends without a word after a step."""
    loop = experiment.loop

    def pull(progress):
        if progress.step == step:
            raise Pulled

    def until(*parts, hooks, **how):
        return loop(*parts, hooks=[*hooks, pull], **how)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "loop", until)
        with pytest.raises(Pulled):
            run(config, workdir)


@pytest.mark.parametrize(
    ("kind", "step", "save"),
    [
        ("sft", 3, 2),  # after a step that is logged but not saved
        ("sft with adapters that drop", 3, 3),
        ("sft measured first", 1, 100),  # after an evaluation, with nothing saved
        ("sft measured first", 3, 3),  # between two steps whose tokens are logged
        ("rloo", 1, 1),  # between two minibatches of a rollout
        ("rloo", 3, 2),  # between its two updates, the second of which is not saved whole
        ("rloo of adapters that overlaps", 4, 4),  # when it is used up, and the next is sampled
    ],
)
def test_a_run_that_stops_anywhere_ends_as_if_it_had_not(
    tiny, tmp_path, monkeypatch, whole, kind, step, save
):
    config = MAKE[kind](tiny, every__save=save, log__tensorboard=False)
    run_until(step, config, tmp_path, monkeypatch)
    if config.every.get("log", 1) == 1:
        assert len(tiny_run.lines(tmp_path / "metrics.jsonl")) == step
    run(config, tmp_path)
    assert_same_end(tmp_path, whole(kind))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Callable[[str], Path]:
    """Runs that nothing happened to, each made once."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind.split()[0])
            made[kind] = run(MAKE[kind](tiny, every__save=100, log__tensorboard=False), folder)
        return made[kind]

    return of


class Command:
    """`rlft train` in processes of its own, to be killed."""

    def __init__(self, tiny: Tiny, folder: Path, kind: str):
        self._config, self._kind = folder / f"{kind}.py", kind
        config = MAKE[kind](tiny, every__save=1, log__tensorboard=False).to_dict()
        text = (
            f"import json\n\n\ndef get_config():\n    return json.loads({json.dumps(config)!r})\n"
        )
        self._config.write_text(text)
        self._environment = {
            **os.environ,
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    @contextlib.contextmanager
    def started(self, workdir: Path):
        words = ["train", f"--config={self._config}", f"--workdir={workdir}"]
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from rlft_jax.main import run; raise SystemExit(run())",
                *words,
            ],
            env=self._environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def finish(self, workdir: Path) -> Path:
        with self.started(workdir) as process:
            _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return workdir

    def kill(self, workdir: Path, when: Callable[[], bool]) -> bool:
        """Kills a run as soon as `when` says so; whether it was still running then."""
        with self.started(workdir) as process:
            while process.poll() is None and not when():
                time.sleep(0.001)
            was_running = process.poll() is None
            process.send_signal(signal.SIGKILL)
        return was_running


def logged(workdir: Path) -> int:
    """Steps in a run's metrics."""
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def is_writing(workdir: Path, step: int) -> bool:
    """Whether a checkpoint is being written, and Orbax has begun with it."""
    return any((workdir / "checkpoints").glob(f"*{step}.writing/state*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "rloo"])
def test_a_killed_run_ends_as_if_it_had_lived(tiny, tmp_path, kind):
    command = Command(tiny, tmp_path, kind)
    expected = command.finish(tmp_path / "whole")
    workdir = tmp_path / "run"
    # Between steps, and for RLOO between two updates of one rollout.
    assert command.kill(workdir, lambda: logged(workdir) == 1)
    # In the middle of a save, after another start.
    assert command.kill(workdir, lambda: is_writing(workdir, 3))
    drafts = list((workdir / "checkpoints").glob("*.writing"))
    assert drafts, "the run was killed after the save, not during it"
    # At any other moment.
    moment = time.monotonic() + random.Random(kind).uniform(2, 6)
    command.kill(workdir, lambda: time.monotonic() > moment)
    command.finish(workdir)
    assert_same_end(workdir, expected)
    assert not list((workdir / "checkpoints").glob("*.writing"))
