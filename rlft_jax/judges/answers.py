"""Answers kept on the disk, so that no question is paid for twice."""

import hashlib
import json
import logging
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from rlft_jax.tasks.problem import Message


def question_key(model: str, messages: Sequence[Message], settings: Mapping[str, Any]) -> str:
    """Names a question by all that its answer depends on: model, texts and settings.

    The address is not among them: a server that moves to another port is still the same.
    """
    question = {"model": model, "messages": list(messages), "settings": dict(settings)}
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


class Answers:
    """Answers by the key of their question; safe to use from many threads.

    With a path, each is a line of that file as soon as it is known, and what the file holds is
    known from the start. A line that a killed process left torn is skipped, not trusted.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._file = None
        if path is not None:
            path = pathlib.Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered appends of whole lines: several processes may share the file.
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            self._take(self._file.read(), path)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> str | None:
        """The answer to a question, or None."""
        with self._lock:
            return self._known.get(key)

    def put(self, key: str, answer: str) -> None:
        """Keeps an answer."""
        line = json.dumps({"key": key, "answer": answer}).encode() + b"\n"
        with self._lock:
            self._known[key] = answer
            if self._file is not None:
                self._file.write(line)

    def close(self) -> None:
        """Closes the file; every answer is in it already."""
        if self._file is not None:
            self._file.close()

    def _take(self, content: bytes, path: pathlib.Path) -> None:
        damaged = 0
        for line in content.splitlines():
            try:
                row = json.loads(line)
                key, answer = row["key"], row["answer"]
            except (ValueError, KeyError, TypeError):
                damaged += 1
                continue
            if isinstance(key, str) and isinstance(answer, str):
                self._known[key] = answer
        if damaged:
            logging.getLogger(__name__).warning(
                "%d damaged lines of %s are skipped; their questions are asked again.",
                damaged,
                path,
            )
        if content and not content.endswith(b"\n"):
            assert self._file is not None
            self._file.write(b"\n")  # what comes next shall not continue a torn line
