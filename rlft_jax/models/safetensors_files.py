"""Reading and writing safetensors files a piece at a time, trusting nothing that a file says.

The format (github.com/huggingface/safetensors): eight bytes of header length, a JSON header, and
the bytes of all tensors without gaps. The library holds whole models to write them and knows no
bfloat16 in NumPy; this file holds one block.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
# Types that a file may hold and a model may not; known so that they are refused by name.
BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16}
BITS |= {"I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
BITS |= {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
BITS |= {name: 8 * dtype.itemsize for name, dtype in DTYPES.items()}

MOST_HEADER_BYTES = 100_000_000  # what the reference implementation allows
BLOCK_BYTES = 16 << 20
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Stored(NamedTuple):
    """Where a tensor lies: `dtype` is the format's name, `start` counts from the file's start."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


def read_folder(folder: Path, *, stem: str = "model") -> dict[str, Stored]:
    """Returns all tensors of `stem.safetensors`, or of the shards that its index names.

    Only headers are read, but all that they promise is checked.

    Raises:
        ValueError: If there is no such file, if the index names a file outside the folder, or if
            index, headers and files disagree.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.exists():
        return read_header(_inside(folder, single.name))
    if index.exists():
        return _read_shards(folder, _weight_map(_inside(folder, index.name)))
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    if pickles:
        raise ValueError(
            f"{folder} holds its weights as pickle ({', '.join(pickles)}), which can run any code"
            " when read. Convert them with `save_pretrained(..., safe_serialization=True)`."
        )
    raise ValueError(
        f"{folder} has neither {single.name} nor {index.name}. Point to a folder that"
        " `save_pretrained` wrote; of the hub, pickles are never fetched."
    )


def read_header(file: Path) -> dict[str, Stored]:
    """Returns the tensors of one file.

    Raises:
        ValueError: If the header is not one, or does not describe the file's bytes exactly.
    """

    def refuse(problem: str) -> ValueError:
        return ValueError(f"{file} is not a sound safetensors file: {problem}. Get it again.")

    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_bytes > size - 8:
            raise refuse(f"its header of {header_bytes} bytes does not fit into {size} bytes")
        if header_bytes > MOST_HEADER_BYTES:
            raise refuse(f"its header of {header_bytes} bytes is over {MOST_HEADER_BYTES}")
        text = stream.read(header_bytes)
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise refuse("its header is not a JSON object")
    header.pop("__metadata__", None)
    spans, tensors, start = [], {}, 8 + header_bytes
    for name, entry in header.items():
        problem, span = _checked_span(entry)
        if problem:
            raise refuse(f"{name!r} {problem}")
        spans.append((*span, name))
        tensors[name] = Stored(file, entry["dtype"], tuple(entry["shape"]), start + span[0])
    end = 0
    for begin, stop, name in sorted(spans):
        if begin != end:
            raise refuse(f"{name!r} begins at byte {begin}, the one before it ends at {end}")
        end = stop
    if start + end != size:
        raise refuse(f"its tensors end at byte {start + end} of {size}")
    return tensors


def _checked_span(entry: Any) -> tuple[str | None, tuple[int, int]]:
    """What is wrong with a header's entry, if anything, and the bytes that it claims."""
    is_count = lambda x: type(x) is int and x >= 0
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return "is not described by dtype, shape and data_offsets alone", (0, 0)
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return f"has the unknown dtype {dtype!r}", (0, 0)
    if not isinstance(shape, list) or not all(map(is_count, shape)):
        return f"has the impossible shape {shape!r}", (0, 0)
    if not isinstance(span, list) or len(span) != 2 or not all(map(is_count, span)):
        return f"has the impossible data_offsets {span!r}", (0, 0)
    if 8 * (span[1] - span[0]) != math.prod(shape) * BITS[dtype]:
        return f"claims bytes {span[0]} to {span[1]} for {dtype}{shape}", (0, 0)
    return None, (span[0], span[1])


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; that a name comes twice is an error rather than a choice of the parser."""
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"it names {', '.join(twice)} twice")
    return result


def _weight_map(index: Path) -> dict[str, str]:
    """Which file of the folder an index says that each tensor is in."""
    try:
        content = json.loads(index.read_bytes(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index} is not JSON: {error}. Get it again.") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise ValueError(f"{index} has no `weight_map` from tensors to files. Get it again.")
    return weight_map


def _read_shards(folder: Path, weight_map: Mapping[str, str]) -> dict[str, Stored]:
    """The tensors of all shards, each where the index says and nowhere else."""
    names = sorted(set(weight_map.values()))
    files = {name: _inside(folder, name) for name in names}
    gone = [name for name, file in files.items() if not file.is_file()]
    if gone:
        raise ValueError(f"{folder} lacks {', '.join(gone)}, which its index names. Get them.")
    tensors: dict[str, Stored] = {}
    problems = []
    for name, file in files.items():
        for tensor, stored in read_header(file).items():
            if tensor in tensors:
                problems.append(f"{tensor} is in {tensors[tensor].file.name} and in {name}")
            elif weight_map.get(tensor, name) != name:
                problems.append(f"{tensor} is in {name}, the index says {weight_map[tensor]}")
            tensors[tensor] = stored
    problems += [f"{t} is not in {f}" for t, f in weight_map.items() if t not in tensors]
    if problems:
        raise ValueError(_listed(f"{folder}: the index and its files disagree", problems))
    return tensors


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder by its name, refused where it lies elsewhere, links followed.

    The hub's cache keeps files in `blobs` beside `snapshots/REVISION` and links to them.
    """
    file, home = folder / name, folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if Path(name).name != name or file.resolve().parent not in homes:
        raise ValueError(
            f"{folder} names the file {name!r}, which is outside the folder. Do not use this"
            " checkpoint; get it again from where you trust."
        )
    return file


def read_into(out: np.ndarray, tensor: Stored, index: tuple[slice, ...]) -> None:
    """Fills `out`, of any type and strides, with a part of a tensor, holding one block of it."""
    dtype, width = DTYPES[tensor.dtype], math.prod(tensor.shape[1:])
    first, last, _ = index[0].indices(tensor.shape[0])
    rows = max(BLOCK_BYTES // max(width * dtype.itemsize, 1), 1)
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.start + first * width * dtype.itemsize)
        for row in range(first, last, rows):
            block = np.empty((min(rows, last - row), *tensor.shape[1:]), dtype)
            if stream.readinto(block.reshape(-1).view(np.uint8).data) != block.nbytes:
                raise ValueError(f"{tensor.file} became shorter while it was read. Get it again.")
            out[row - first : row - first + len(block)] = block[(slice(None), *index[1:])]


def write(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    array: Callable[[str], np.ndarray],
    *,
    dtype: str,
    stem: str = "model",
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes tensors as one file, or as shards with an index, holding one tensor at a time.

    Args:
        shapes: What to write, in order.
        array: Returns a tensor by name, in `dtype`.
        dtype: One of float32, bfloat16 and float16.
        shard_bytes: Bytes at which a new shard begins; a larger tensor gets a shard of its own.
    """
    itemsize = np.dtype(dtype).itemsize
    sizes = {name: math.prod(shape) * itemsize for name, shape in shapes.items()}
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        if filled and filled + sizes[name] > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += sizes[name]
    if len(shards) == 1:
        _write_file(folder / f"{stem}.safetensors", shards[0], map(array, shards[0]), dtype)
        return
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        file = folder / f"{stem}-{i:05}-of-{len(shards):05}.safetensors"
        _write_file(file, shard, map(array, shard), dtype)
        weight_map |= dict.fromkeys(shard, file.name)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_file(
    file: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[np.ndarray], dtype: str
) -> None:
    """Writes one file; `arrays` may be lazy."""
    name_of = {stored: name for name, stored in DTYPES.items()}[np.dtype(dtype)]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": name_of, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    with file.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape, x in zip(shapes.values(), arrays, strict=True):
            assert (x.shape, x.dtype) == (shape, np.dtype(dtype)), (x.shape, shape, x.dtype)
            stream.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def _listed(what: str, problems: Iterable[str]) -> str:
    return "\n- ".join([f"{what}:", *problems])
