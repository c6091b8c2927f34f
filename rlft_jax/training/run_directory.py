"""Where the files of a run are, whose it is, and whether it may go on."""

import contextlib
import fcntl
import fnmatch
import importlib.metadata
import json
import logging
import os
import platform
import socket
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rlft_jax.files import written_whole

PACKAGES = (
    *("rlft_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("transformers", "tokenizers", "datasets"),
)
# What a setting says that does nothing, as JSON.
OFF, NOT_SET = ("null", "false", "{}", "[]"), "not set"


class RunDirectory(NamedTuple):
    """Names of what a run writes. Nothing is made before it is needed."""

    path: Path

    @property
    def config(self) -> Path:
        """The whole resolved config, as JSON."""
        return self.path / "config.json"

    @property
    def places(self) -> Path:
        """Absolute paths of what the config names, by the names that it has there."""
        return self.path / "places.json"

    @property
    def versions(self) -> Path:
        """Versions of Python and of the packages that last worked on the run."""
        return self.path / "versions.json"

    @property
    def model(self) -> Path:
        """Configs and tokenizer of the model, as Hugging Face has them, without weights."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """What `Checkpoints` looks after."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One line per logged step, without any wall-clock value."""
        return self.path / "metrics.jsonl"

    @property
    def timings(self) -> Path:
        """Rates and times, one line per logged step."""
        return self.path / "timings.jsonl"

    @property
    def samples(self) -> Path:
        """Completions with their rewards, one line each."""
        return self.path / "samples.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        """Traces of some steps, if they were asked for."""
        return self.path / "profile"

    @property
    def wandb_id(self) -> Path:
        """Which Weights & Biases run this is, so that resuming continues it."""
        return self.path / "wandb_id"


@contextlib.contextmanager
def lock(run: RunDirectory) -> Iterator[None]:
    """Holds the run directory, made if need be, for this process alone.

    The kernel lets go of it when the process ends, however it ends. With several processes to a
    run, process 0 holds it for all.

    Raises:
        ValueError: If another process holds it, saying which.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with (run.path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{run.path} is in use by {file.read().strip() or 'a process that just began'}."
                " Wait for it, end it, or choose another --workdir."
            ) from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        yield
        file.truncate(0)


def record_config(
    run: RunDirectory, config: Mapping[str, Any], *, may_differ: Collection[str] = ()
) -> None:
    """Writes the config of a new run, or of one that goes on with the same.

    Raises:
        ValueError: As `check_config` does.
    """
    check_config(run, config, may_differ=may_differ)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if not run.config.exists() or run.config.read_text() != text:
        with written_whole(run.config) as file:
            file.write(text)


def check_config(
    run: RunDirectory, config: Mapping[str, Any], *, may_differ: Collection[str] = ()
) -> None:
    """Refuses to go on with a run, if there is one, under another config. Writes nothing.

    A setting that only one of the two has may be off there: so a run goes on under a version that
    has more of them. 0 is not off, as a temperature is not.

    Args:
        config: The whole config, resolved; nested, and JSON.
        may_differ: Settings that do not change what a step does, such as "steps" or "every.*".

    Raises:
        ValueError: If other settings differ from those stored, naming all of them.
    """
    if not run.config.exists():
        return
    stored, given = _flat(json.loads(run.config.read_text())), _flat(json.loads(json.dumps(config)))
    differing = [
        f"config.{name} was {_said(stored, name)}, now {_said(given, name)}."
        for name in sorted(stored.keys() | given.keys())
        if _differ(stored, given, name)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in may_differ)
    ]
    if differing:
        raise ValueError(
            f"The run in {run.path} cannot go on with another config:\n- "
            + "\n- ".join(differing)
            + "\nGive it the settings that it began with, or choose another --workdir."
        )


def record_versions(run: RunDirectory) -> dict[str, str]:
    """Returns the versions in use, writes them down, and warns of those that changed.

    A run goes on bit for bit only with the versions that it began with.
    """
    now = versions()
    if run.versions.exists():
        before = json.loads(run.versions.read_text())
        changed = [
            f"{name} {before.get(name)} -> {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if changed:
            logging.getLogger(__name__).warning(
                "%s goes on with other versions, so not bit for bit: %s",
                run.path,
                ", ".join(changed),
            )
    with written_whole(run.versions) as file:
        file.write(json.dumps(now, indent=2, sort_keys=True) + "\n")
    return now


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted path; an empty section is a setting of its own."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _differ(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> bool:
    said = {_said(a, name), _said(b, name)}
    are_off = NOT_SET in said and said <= {NOT_SET, *OFF}
    return len(said) == 2 and not are_off


def _said(config: Mapping[str, Any], name: str) -> str:
    return json.dumps(config[name]) if name in config else NOT_SET
