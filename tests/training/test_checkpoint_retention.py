"""Facts about which checkpoints stay."""

import pytest

from rlft_jax.training.checkpoint import Checkpoints
from tests.training.states import flip_bit, names, save


def test_the_policy_keeps_the_last_the_best_and_every_kth(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=4, keep_best=1)
    for step, metric in enumerate([0.1, 0.9, 0.2, float("nan"), 0.3, None, 0.9], 1):
        save(checkpoints, step, metric=metric)
    assert checkpoints.steps() == [2, 4, 6, 7]
    assert names(tmp_path) == ["00000002", "00000004", "00000006", "00000007"]
    assert checkpoints.best() == 2
    assert Checkpoints(tmp_path, best_mode="min").best() == 2
    assert checkpoints.latest() == 7


def test_a_policy_that_keeps_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_last = 0") as error:
        Checkpoints(tmp_path, keep_last=0, keep_every=-2, keep_best=-1)
    assert "keep_every = -2" in str(error.value)
    assert "keep_best = -1" in str(error.value)


def test_a_damaged_best_step_gives_way_to_the_next(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    for step, metric in [(1, 0.5), (2, 0.9), (3, 0.7)]:
        save(checkpoints, step, metric=metric)
    flip_bit(tmp_path / "00000002")
    assert Checkpoints(tmp_path).best() == 3


def test_a_damaged_later_step_does_not_take_the_place_of_a_good_one(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    save(checkpoints, 9)
    flip_bit(tmp_path / "00000009")
    assert checkpoints.latest() is None
    save(checkpoints, 5)
    assert names(tmp_path) == ["00000005"]
    assert "Deleting" in caplog.text
