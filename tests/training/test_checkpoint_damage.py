"""Damaged checkpoints: every damage is said, and the step before is used."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from rlft_jax.training import manifest
from rlft_jax.training.checkpoint import Checkpoints
from tests.training.states import (
    assert_same_bits,
    flip_bit,
    largest_file,
    like,
    make_state,
    save,
)


def truncate(step: Path) -> None:
    os.truncate(largest_file(step), largest_file(step).stat().st_size - 1)


def zero_page(step: Path) -> None:
    content = bytearray(largest_file(step).read_bytes())
    content[512 : 512 + 4096] = bytes(len(content[512 : 512 + 4096]))
    largest_file(step).write_bytes(content)


def delete_file(step: Path) -> None:
    largest_file(step).unlink()


def add_file(step: Path) -> None:
    (step / "state" / "more").write_text("?")


def lose_source(step: Path) -> None:
    (step / "source_0.npz").unlink()


def swap_files(step: Path) -> None:
    one, two = step / "source_0.json", step / "source_0.npz"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def stale_manifest(step: Path) -> None:
    shutil.copy(step.parent / "00000001" / manifest.NAME, step / manifest.NAME)


def edited_manifest(step: Path) -> None:
    path = step / manifest.NAME
    path.write_text(path.read_text().replace('"abc"', '"abd"'))


def torn_manifest(step: Path) -> None:
    os.truncate(step / manifest.NAME, 100)


def manifest_of_zeros(step: Path) -> None:
    path = step / manifest.NAME
    path.write_bytes(bytes(path.stat().st_size))


def another_step(step: Path) -> None:
    shutil.rmtree(step)
    shutil.copytree(step.parent / "00000001", step)


def manifest_of_noise(step: Path) -> None:
    (step / manifest.NAME).write_bytes(b"\xff\xfe[1]")


def no_manifest(step: Path) -> None:
    (step / manifest.NAME).unlink()


def empty_folder(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = [
    flip_bit,
    truncate,
    zero_page,
    delete_file,
    add_file,
    lose_source,
    swap_files,
    stale_manifest,
    another_step,
    edited_manifest,
    torn_manifest,
    manifest_of_zeros,
    manifest_of_noise,
    no_manifest,
    empty_folder,
]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(Checkpoints(folder), 1, 2)
    return folder


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_said_and_the_step_before_is_used(two_steps, tmp_path, caplog, damage):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_steps, folder)
    damage(folder / "00000002")
    checkpoints = Checkpoints(folder)
    with caplog.at_level(logging.ERROR):
        assert checkpoints.latest() == 1
    assert checkpoints.damaged.keys() == {2}
    assert "00000002 is damaged and does not count" in caplog.text
    with pytest.raises(ValueError, match=r"Step 2 .* cannot be restored"):
        checkpoints.restore(2, like(make_state(2)))
    assert_same_bits(checkpoints.restore(1, like(make_state(1))).state, make_state(1))
    # The run comes to step 2 again, and the damaged one gives way.
    save(checkpoints, 2)
    assert Checkpoints(folder).latest() == 2
    assert_same_bits(Checkpoints(folder).restore(2, like(make_state(2))).state, make_state(2))


def test_a_checkpoint_of_a_later_format_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setattr("rlft_jax.training.step_folders.FORMAT", 2)
    save(Checkpoints(tmp_path), 1)
    monkeypatch.undo()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    assert checkpoints.damaged == {1: ["it has format 2, and this version reads 1"]}


def test_every_damaged_step_is_listed(tmp_path):
    save(Checkpoints(tmp_path, keep_last=3), 1, 2, 3)
    for step in ("00000001", "00000002", "00000003"):
        flip_bit(tmp_path / step)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    assert checkpoints.damaged.keys() == {1, 2, 3}
