"""Saves what lives on the host, such as the position of a data source, exactly.

A nested dictionary goes to JSON, its arrays to an `.npz` beside it. Nothing is pickled: a
checkpoint from elsewhere can be wrong, but it cannot run code.
"""

import base64
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np


def write(stem: Path, state: dict[str, Any]) -> None:
    """Writes `stem`.json and `stem`.npz.

    Holds None, bool, int, float, str, bytes, lists, tuples, dictionaries with string keys, and
    NumPy arrays and scalars of any numeric dtype (bfloat16 too; an array without axes comes back
    as a scalar).

    Raises:
        ValueError: If something else is in it, naming each place.
    """
    arrays: list[np.ndarray] = []
    wrong: list[str] = []
    encoded = _encode(state, "state", arrays, wrong)
    if wrong:
        raise ValueError(
            "This state of a source cannot be saved:\n"
            + "\n".join(f"- {place}" for place in wrong)
            + "\nUse plain values, lists, dictionaries with string keys, and NumPy arrays."
        )
    stem.with_suffix(".json").write_text(json.dumps(encoded))
    with stem.with_suffix(".npz").open("wb") as file:
        np.savez(file, *arrays)


def read(stem: Path) -> dict[str, Any]:
    """Returns what `write` was given."""
    with np.load(stem.with_suffix(".npz"), allow_pickle=False) as arrays:
        return _decode(json.loads(stem.with_suffix(".json").read_text()), arrays)


def _encode(value: Any, place: str, arrays: list[np.ndarray], wrong: list[str]) -> Any:
    """Returns JSON for `value`; what JSON lacks is an object with one key that begins with $."""
    match value:
        case np.ndarray() | np.generic():  # before float: np.float64 is one
            array = np.asarray(value)
            if array.dtype.hasobject:
                wrong.append(f"{place} is an array of Python objects")
                return None
            arrays.append(array.view(_stored_as(array.dtype)))
            return {"$array": len(arrays) - 1, "dtype": array.dtype.name}
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case list():
            return [_encode(v, f"{place}[{i}]", arrays, wrong) for i, v in enumerate(value)]
        case tuple() if not hasattr(value, "_fields"):
            return {"$tuple": _encode(list(value), place, arrays, wrong)}
        case dict():
            for key in value:
                if not isinstance(key, str) or key.startswith("$"):
                    wrong.append(f"{place} has the key {key!r}")
            return {k: _encode(v, f"{place}[{k!r}]", arrays, wrong) for k, v in value.items()}
    wrong.append(f"{place} is a {type(value).__name__}")
    return None


def _decode(value: Any, arrays: Any) -> Any:
    match value:
        case {"$array": number, "dtype": name}:
            # asarray: what was a scalar has no axes, and indexing with () makes it one again.
            return np.asarray(arrays[f"arr_{number}"]).view(jnp.dtype(name))[()]
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$tuple": items}:
            return tuple(_decode(item, arrays) for item in items)
        case dict():
            return {key: _decode(item, arrays) for key, item in value.items()}
        case list():
            return [_decode(item, arrays) for item in value]
    return value


def _stored_as(dtype: np.dtype) -> np.dtype:
    """The dtype to write: `.npz` forgets the names of types that NumPy did not bring."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
