"""What a finished checkpoint folder holds: the digest of every file, written last.

Neither Orbax nor the file system notices a flipped bit, and a folder that was being written when
its process died looks much like a finished one. A folder counts once its manifest verifies.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlft_jax import files

NAME = "manifest.json"


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Makes everything under `folder` durable and writes its manifest, with `facts` in it.

    Call it when nothing else writes to the folder any more.
    """
    names = _files(folder)
    records = dict(zip(names, _each(_record, [folder / name for name in names])))
    body = json.loads(json.dumps({**facts, "files": records}))  # as it will be read
    path = folder / NAME
    path.write_text(json.dumps({"sha256": _digest_of(body), "body": body}, indent=1) + "\n")
    _each(files.sync, [path, *(folder / name for name in names)])
    for parent in [*(entry for entry in folder.rglob("*") if entry.is_dir()), folder]:
        files.sync(parent)


def read(folder: Path) -> dict[str, Any]:
    """Returns the facts and files that the manifest of `folder` records.

    Raises:
        ValueError: If there is no manifest, or it is not what was written.
    """
    try:
        manifest = json.loads((folder / NAME).read_text())
        body, digest = manifest["body"], manifest["sha256"]
    except FileNotFoundError:
        raise ValueError(f"{NAME} is missing") from None
    except (ValueError, KeyError, TypeError):  # ValueError: not JSON, or not even UTF-8
        raise ValueError(f"{NAME} cannot be read") from None
    if digest != _digest_of(body):
        raise ValueError(f"{NAME} has been changed")
    return body


def problems(folder: Path) -> list[str]:
    """Returns all that differs between `folder` and its manifest; nothing if it is intact."""
    try:
        expected = read(folder)["files"]
    except ValueError as error:
        return [str(error)]
    found = set(_files(folder))
    shared = sorted(found & expected.keys())
    records = _each(_record, [folder / name for name in shared])
    return [
        *(f"{name} is missing" for name in sorted(expected.keys() - found)),
        *(f"{name} does not belong" for name in sorted(found - expected.keys())),
        *(
            f"{name} has {record['bytes']} bytes, not {expected[name]['bytes']}"
            if record["bytes"] != expected[name]["bytes"]
            else f"{name} has been changed"
            for name, record in zip(shared, records)
            if record != expected[name]
        ),
    ]


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and path != folder / NAME
    )


def _record(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _digest_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _each(function: Any, paths: list[Path]) -> list[Any]:
    # Reading and hashing let go of the interpreter's lock, so threads do help.
    with ThreadPoolExecutor(max_workers=8) as threads:
        return list(threads.map(function, paths))
