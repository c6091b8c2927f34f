"""Kills and failing disks while a checkpoint is saved: there is always a step to go on from."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rlft_jax import files
from rlft_jax.training.checkpoint import Checkpoints, SaveError
from tests.training.states import assert_same_bits, largest_file, like, make_state, names, save

REPOSITORY = Path(__file__).parents[2]


class Killed(BaseException):
    """Ends the work where it is, as SIGKILL does: nothing cleans up."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "place",
    [
        "rlft_jax.training.step_folders.begin",
        "orbax.checkpoint.Checkpointer.save",
        "rlft_jax.training.host_state.write",
        "rlft_jax.training.manifest.write",
        "rlft_jax.files.sync",
        "pathlib.Path.rename",
        "rlft_jax.training.step_folders.delete",
        "shutil.rmtree",
    ],
)
def test_a_kill_during_a_save_leaves_a_step_to_go_on_from(tmp_path, monkeypatch, place, when):
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    save(checkpoints, 1)
    monkeypatch.setattr(*dying_at(place, when))
    with pytest.raises(Killed):
        save(checkpoints, 2)
    monkeypatch.undo()

    checkpoints = Checkpoints(tmp_path, keep_last=1)
    step = checkpoints.latest()
    assert step in (1, 2)
    assert not checkpoints.damaged  # a kill is not damage
    assert_same_bits(checkpoints.restore(step, like(make_state(step))).state, make_state(step))
    save(checkpoints, 2, 3)
    assert names(tmp_path) == ["00000003"]  # and nothing of the old is left


def test_a_kill_half_way_through_a_deletion_is_not_taken_for_damage(tmp_path, monkeypatch):
    def dying(folder: Path) -> None:
        largest_file(folder).unlink()
        raise Killed

    checkpoints = Checkpoints(tmp_path, keep_last=2)
    save(checkpoints, 1, 2)
    monkeypatch.setattr(shutil, "rmtree", dying)
    with pytest.raises(Killed):
        save(checkpoints, 3)
    monkeypatch.undo()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.latest() == 3
    assert checkpoints.restore(2, like(make_state(2))).source == {"position": 2}
    with pytest.raises(ValueError, match="missing"):
        checkpoints.restore(1, like(make_state(1)))


def dying_at(place: str, when: str) -> tuple:
    owner_name, _, name = place.rpartition(".")
    module_name, _, class_name = owner_name.rpartition(".")
    owner = sys.modules.get(owner_name) or getattr(sys.modules[module_name], class_name)
    real = getattr(owner, name)

    def dying(*arguments, **keywords):
        if when == "after":
            real(*arguments, **keywords)
        raise Killed

    return owner, name, dying


def test_everything_is_on_the_disk_before_a_step_gets_its_name(tmp_path, monkeypatch):
    events: list[tuple[str, Path]] = []
    sync, rename = files.sync, Path.rename
    monkeypatch.setattr(files, "sync", lambda path: (sync(path), events.append(("sync", path)))[0])
    monkeypatch.setattr(
        Path, "rename", lambda path, to: (events.append(("rename", path)), rename(path, to))[1]
    )
    save(Checkpoints(tmp_path), 1)
    final, draft = tmp_path / "00000001", tmp_path / "00000001.writing"
    renamed = events.index(("rename", draft))
    written = {draft / path.relative_to(final) for path in [final, *final.rglob("*")]}
    assert {path for _, path in events[:renamed]} == written
    assert ("sync", tmp_path) in events[renamed:]  # and then the name itself


def test_a_full_disk_is_said_and_earlier_steps_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    noise = {"params": jax.random.normal(jax.random.key(0), (100_000,))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SaveError, match="File too large") as error:
            checkpoints.save(2, noise, {}, extra={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert names(tmp_path) == ["00000001"]
    save(checkpoints, 2)  # the disk has room again
    assert Checkpoints(tmp_path).latest() == 2


@pytest.mark.parametrize("place", ["host_state.write", "manifest.write", "step_folders.begin"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_error_of_the_disk_leaves_earlier_steps(tmp_path, monkeypatch, place, number):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)

    def broken(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"rlft_jax.training.{place}", broken)
    with pytest.raises(SaveError, match=os.strerror(number)):
        save(checkpoints, 2)
    assert names(tmp_path) == ["00000001"]
    assert checkpoints.latest() == 1


def test_a_mistake_of_the_caller_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(ValueError, match=r"state\['source'\] is a set"):
        Checkpoints(tmp_path).save(1, make_state(1), {"source": {1}}, extra={})
    assert Checkpoints(tmp_path).latest() is None


SAVES_FOREVER = """
import sys
import jax.numpy as jnp
from rlft_jax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep_last=1)
start = (checkpoints.latest() or 0) + 1
for step in range(start, 10**6):
    state = {"w": jnp.full((300, 1000), step, jnp.float32), "step": jnp.int32(step)}
    checkpoints.save(step, state, {"position": step}, extra={})
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.023, 0.037])
def test_sigkill_at_any_time_leaves_a_step_to_go_on_from(tmp_path, delay):
    printed = 0
    for _ in range(2):  # the second begins where the first was killed
        command = [sys.executable, "-c", SAVES_FOREVER, str(tmp_path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        try:
            for _ in range(3):
                printed = int(child.stdout.readline())
            time.sleep(delay)
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        checkpoints = Checkpoints(tmp_path)
        step = checkpoints.latest()
        assert step >= printed
        assert not checkpoints.damaged
        state = {"w": jnp.full((300, 1000), step, jnp.float32), "step": jnp.int32(step)}
        restored = checkpoints.restore(step, like(state))
        assert_same_bits(restored.state, state)
        assert restored.source == {"position": step}
