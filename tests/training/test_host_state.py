"""Facts about saving what lives on the host."""

import math
import typing

import ml_dtypes
import numpy as np
import pytest

from rlft_jax.training import host_state


def round_trip(tmp_path, state):
    host_state.write(tmp_path / "source_0", state)
    return host_state.read(tmp_path / "source_0")


def test_plain_values_keep_value_and_type(tmp_path):
    state = {
        "none": None,
        "flags": [True, False],
        "large": 2**80,
        "exact": [0.1, -0.0, 1e-320, math.inf],
        "text": "\ud800 \x00 ☃",
        "bytes": b"\x00\xff",
        "tuple": (1, ("a", [2])),
        "nested": {"": {"a.b/c": []}},
    }
    restored = round_trip(tmp_path, state)
    assert restored == state
    assert repr(restored) == repr(state)  # tells True from 1, -0.0 from 0.0 and () from []


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint32", "int64", "float16", "float32", "float64", "complex64"]
)
def test_arrays_keep_bits_shape_and_dtype(tmp_path, dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)[:, ::2]
    restored = round_trip(tmp_path, {"pending": [array, {"again": array.T}]})["pending"]
    np.testing.assert_array_equal(restored[0], array)
    np.testing.assert_array_equal(restored[1]["again"], array.T)
    assert restored[0].dtype == array.dtype


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_arrays_of_types_that_numpy_does_not_know_keep_theirs(tmp_path, dtype):
    array = np.array([[1, -2], [0.5, 448]], dtype)
    restored = round_trip(tmp_path, {"a": array, "scalar": array[0, 0]})
    assert restored["a"].dtype == dtype
    assert restored["a"].tobytes() == array.tobytes()
    assert restored["scalar"] == 1


def test_scalars_of_numpy_come_back_as_such(tmp_path):
    restored = round_trip(tmp_path, {"float": np.float64(0.1), "array": np.array(3, np.int16)})
    assert isinstance(restored["float"], np.float64)
    assert restored["array"] == 3
    assert restored["array"].dtype == np.int16


def test_empty_arrays_keep_their_shape(tmp_path):
    assert round_trip(tmp_path, {"a": np.zeros((0, 5), np.int32)})["a"].shape == (0, 5)


class Point(typing.NamedTuple):
    x: int


def test_what_cannot_be_saved_is_refused_all_at_once_naming_each_place(tmp_path):
    state = {
        "set": {1},
        "list": [0, Point(3)],
        "keys": {1: "one", "$array": 0},
        "objects": np.array([None]),
    }
    with pytest.raises(ValueError, match="cannot be saved") as error:
        host_state.write(tmp_path / "source_0", state)
    for place in (
        "state['set'] is a set",
        "state['list'][1] is a Point",
        "state['keys'] has the key 1",
        "state['keys'] has the key '$array'",
        "state['objects'] is an array of Python objects",
    ):
        assert place in str(error.value)
    assert not list(tmp_path.iterdir())


def test_reading_runs_no_code(tmp_path):
    np.savez(tmp_path / "source_0.npz", arr_0=np.array([print], object))
    (tmp_path / "source_0.json").write_text('{"a": {"$array": 0, "dtype": "float32"}}')
    with pytest.raises(ValueError, match="pickle"):
        host_state.read(tmp_path / "source_0")
