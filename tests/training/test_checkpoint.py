"""Facts about what is saved and restored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.training import manifest
from rlft_jax.training.checkpoint import Checkpoints
from tests.training.states import State, assert_same_bits, like, make_state, mesh_of, save


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


def test_saving_an_intact_step_again_changes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    before = (tmp_path / "00000001" / manifest.NAME).stat().st_mtime_ns
    save(checkpoints, 1)
    assert (tmp_path / "00000001" / manifest.NAME).stat().st_mtime_ns == before
