"""Facts about checkpoints, and attempts to break them."""

import errno
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from rlft_jax.training import manifest
from rlft_jax.training.checkpoint import Checkpoints, SaveError

REPOSITORY = Path(__file__).parents[2]


class State(NamedTuple):
    """Stands for a train state: a tuple of dictionaries, several dtypes, optax's own classes."""

    step: Array
    params: PyTree
    opt_state: PyTree


def mesh_of(*shape: int) -> jax.sharding.Mesh:
    axes = ("fsdp", "tensor")[: len(shape)]
    return jax.make_mesh(shape, axes, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


def make_state(step: int = 0, mesh: jax.sharding.Mesh | None = None) -> State:
    key = jax.random.key(step)
    params = {
        "layers": {"kernel": jax.random.normal(key, (16, 8, 8))},
        "embedding": jax.random.normal(key, (8, 24), jnp.bfloat16),
        "mask": jnp.array([True, False]),
    }
    if mesh is not None:
        place = lambda x: jax.device_put(x, NamedSharding(mesh, spec_of(x, mesh)))
        params = jax.tree.map(place, params)
    floats = {name: params[name] for name in ("layers", "embedding")}
    return State(jnp.int32(step), params, optax.adamw(1e-3).init(floats))


def spec_of(array: Array | jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh) -> P:
    """The last axes over the mesh, as far as there are axes of enough size."""
    return P(*[None] * (array.ndim - 2), *mesh.axis_names[:2]) if array.ndim >= 2 else P()


def like(state: PyTree, mesh: jax.sharding.Mesh | None = None) -> PyTree:
    def of(x: Array) -> jax.ShapeDtypeStruct:
        sharding = x.sharding if mesh is None else NamedSharding(mesh, spec_of(x, mesh))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(of, state)


def assert_same_bits(actual: PyTree, expected: PyTree) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(checkpoints: Checkpoints, *steps: int, metric: float | None = None) -> None:
    for step in steps:
        extra = {"config": "abc", "at": step}
        checkpoints.save(step, make_state(step), {"position": step}, extra=extra, metric=metric)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_restored_is_what_was_saved_bit_for_bit(tmp_path):
    state = make_state(7)
    # Values that comparing as numbers would let through: signs of zero, NaNs, subnormals.
    odd = np.array([0x80000000, 0x7FC00001, 0xFFC00000, 1, 0x7F800000], np.uint32)
    state.params["odd"] = jnp.asarray(odd.view(np.float32))
    source = {"position": 3, "pending": np.arange(6, dtype=np.int64).reshape(2, 3)}
    Checkpoints(tmp_path).save(7, state, source, extra={"config": "abc"})

    restored = Checkpoints(tmp_path).restore(7, like(state))
    assert_same_bits(restored.state, state)
    assert isinstance(restored.state, State)
    assert restored.extra == {"config": "abc"}
    assert restored.source["position"] == 3
    np.testing.assert_array_equal(restored.source["pending"], source["pending"])
    assert restored.source["pending"].dtype == np.int64


@pytest.mark.parametrize(("before", "after"), [((8,), (2, 4)), ((2, 4), (8,)), ((4, 2), (1,))])
def test_the_mesh_does_not_matter(tmp_path, before, after):
    state = make_state(1, mesh_of(*before))
    Checkpoints(tmp_path).save(1, state, {}, extra={})
    wanted = like(state, mesh_of(*after))
    restored = Checkpoints(tmp_path).restore(1, wanted).state
    assert_same_bits(restored, state)
    assert jax.tree.all(jax.tree.map(lambda x, y: x.sharding == y.sharding, restored, wanted))


def test_parameters_are_restored_without_the_optimizer(tmp_path):
    state = make_state(1)
    save(Checkpoints(tmp_path), 1)
    restored = Checkpoints(tmp_path).restore_arrays(1, {"params": like(state).params})
    assert_same_bits(restored["params"], state.params)


def test_a_state_of_another_model_is_refused_naming_every_array(tmp_path):
    save(Checkpoints(tmp_path), 1)
    wanted = like(make_state(1))
    device = jax.devices()[0]
    one = jax.sharding.SingleDeviceSharding(device)
    wanted.params["layers"]["kernel"] = jax.ShapeDtypeStruct((16, 8, 8), jnp.bfloat16, sharding=one)
    wanted.params["embedding"] = jax.ShapeDtypeStruct((9, 24), jnp.bfloat16, sharding=one)
    wanted.params["lora"] = jax.ShapeDtypeStruct((2,), jnp.float32, sharding=one)
    with pytest.raises(ValueError, match="another model") as error:
        Checkpoints(tmp_path).restore(1, wanted)
    assert (
        "params.layers.kernel is float32[16,8,8] in the checkpoint, bfloat16[16,8,8] here"
        in str(error.value)
    )
    assert "params.embedding is bfloat16[8,24] in the checkpoint, bfloat16[9,24] here" in str(
        error.value
    )
    assert "params.lora is absent in the checkpoint, float32[2] here" in str(error.value)
    assert "mask" not in str(error.value)


def test_the_number_of_processes_matters_to_the_source_only(tmp_path, monkeypatch):
    save(Checkpoints(tmp_path), 1)
    checkpoints, state = Checkpoints(tmp_path), make_state(1)
    assert checkpoints.latest() == 1
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match=r"saved by 1 processes.* 4 cannot go on"):
        checkpoints.restore(1, like(state))
    monkeypatch.undo()
    assert_same_bits(checkpoints.restore_arrays(1, like(state)), state)


def test_nothing_saved_is_nothing_to_restore(tmp_path):
    checkpoints = Checkpoints(tmp_path / "not there")
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    assert checkpoints.steps() == []
    with pytest.raises(ValueError, match=r"Step 3 .* cannot be restored: .*missing"):
        checkpoints.restore(3, like(make_state(3)))


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


def test_saving_an_intact_step_again_changes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    before = (tmp_path / "00000001" / manifest.NAME).stat().st_mtime_ns
    save(checkpoints, 1)
    assert (tmp_path / "00000001" / manifest.NAME).stat().st_mtime_ns == before


# How a checkpoint gets damaged ------------------------------------------------------------------


def largest_file(step: Path) -> Path:
    files = [path for path in (step / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip_bit(step: Path) -> None:
    content = bytearray(largest_file(step).read_bytes())
    content[len(content) // 2] ^= 1
    largest_file(step).write_bytes(content)


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


# How saving goes wrong --------------------------------------------------------------------------


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
        "rlft_jax.training.manifest.sync",
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
    sync, rename = manifest.sync, Path.rename
    monkeypatch.setattr(
        manifest, "sync", lambda path: (sync(path), events.append(("sync", path)))[0]
    )
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
