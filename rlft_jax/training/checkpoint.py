"""Checkpoints that survive being killed, and are refused when damaged.

One folder a step, on a file system that all processes see:

    00000100/state/         parameters, optimizer and counters, by Orbax
    00000100/source_0.json  where process 0 is in its data (and .npz for its arrays)
    00000100/manifest.json  everything else, and the digest of every file; written last

Saving is synchronous: when `save` returns, the step can be relied on.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from rlft_jax.training import host_state, manifest, step_folders
from rlft_jax.training.retention import Retention


class SaveError(OSError):
    """A checkpoint could not be written. Those before it are as they were."""


class Restored(NamedTuple):
    """A step as `restore` returns it: the state on the devices, the source's, and `extra`."""

    state: PyTree
    source: dict[str, Any]
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    With several processes each makes one, and all call the same methods in the same order.
    Nothing but `save` changes what is on the disk, so that others may read while a run writes.

    Args:
        folder: Where the steps are; need not exist yet.
        keep_last: How many of the newest to keep, at least 1.
        keep_every: Keeps steps that this divides for good.
        keep_best: How many of those with the best metric to keep.
        best_mode: Whether the highest or the lowest metric is best.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        keep_best: int = 0,
        best_mode: Literal["max", "min"] = "max",
    ) -> None:
        self.folder = Path(folder).absolute()
        self.damaged: dict[int, list[str]] = {}  # what was found wrong, by step
        self._retention = Retention(keep_last, keep_every, keep_best, best_mode)
        self._retention.check()
        self._intact: set[int] = set()  # already verified by this object

    def steps(self) -> list[int]:
        """The steps that have a readable manifest, oldest first; their files are not checked."""
        return list(step_folders.metrics(self.folder))

    def latest(self) -> int | None:
        """The newest step whose files are what was written, or None.

        Newer ones that are damaged are logged and listed in `damaged`.
        """
        return self._first_intact(reversed(step_folders.present(self.folder)))

    def best(self) -> int | None:
        """The intact step with the best metric, the earlier one if equal, or None."""
        return self._first_intact(self._retention.ranked(step_folders.metrics(self.folder)))

    def save(
        self,
        step: int,
        state: PyTree,
        source: dict[str, Any],
        *,
        extra: dict[str, Any],
        metric: float | None = None,
    ) -> None:
        """Saves `step`, then deletes what the policy does not keep.

        Make it the last thing that is done about a step: what is logged later is not part of
        it. A step that is there, and intact, is left alone. Steps after it, and damaged ones,
        are deleted: they belong to a history that was not continued.

        Args:
            source: State of this process's source; see `host_state.write` for what it may hold.
            extra: Facts about the run, as JSON.
            metric: What `best` goes by; None or NaN is never best.

        Raises:
            SaveError: If it could not be written.
        """
        if self._first_intact({step} & {*step_folders.present(self.folder)}) is not None:
            return
        arrays = _by_path(state)
        facts = {
            "metric": None if metric is None or np.isnan(metric) else float(metric),
            "processes": jax.process_count(),
            "arrays": {path: _described(array) for path, array in arrays.items()},
            "extra": extra,
        }
        try:
            self._write(step, arrays, source, facts)
        except (OSError, ValueError) as error:
            if (number := _os_error(error)) is None:
                raise
            # A draft may hold the last of the space.
            shutil.rmtree(step_folders.draft(self.folder, step), ignore_errors=True)
            raise SaveError(
                number,
                f"Step {step} cannot be saved in {self.folder}: {os.strerror(number)}. Earlier"
                " steps are as they were. Make room, or allow writing, and start the run again",
            ) from error

    def restore(self, step: int, like: PyTree) -> Restored:
        """Returns the state, source and extra of `step`.

        Args:
            like: Shape, dtype and sharding of every array, as `jax.ShapeDtypeStruct`. The mesh
                may be another than the one that saved; the number of processes may not, because
                each has a source of its own.

        Raises:
            ValueError: If `step` is missing or damaged, or is not like `like`.
        """
        facts = self._facts(step)
        if facts["processes"] != jax.process_count():
            raise ValueError(
                f"Step {step} in {self.folder} was saved by {facts['processes']} processes, each"
                f" at its own place in the data, and {jax.process_count()} cannot go on from"
                f" there. Start {facts['processes']}, or begin a new run from its parameters."
            )
        source = host_state.read(self._folder(step) / f"source_{jax.process_index()}")
        return Restored(self.restore_arrays(step, like), source, facts["extra"])

    def restore_arrays(self, step: int, like: PyTree) -> PyTree:
        """Returns arrays of `step`, all or some, on any mesh and any number of processes.

        An array is found by its path: `{"params": ...}` gets the parameters of a train state.

        Args:
            like: Shape, dtype and sharding of what is wanted, as `jax.ShapeDtypeStruct`.

        Raises:
            ValueError: If `step` is missing or damaged, or an array is not in it with this
                shape and dtype.
        """
        saved, wanted = self._facts(step)["arrays"], _by_path(like)
        wrong = [
            f"{path} is {saved.get(path, 'absent')} in the checkpoint, {_described(array)} here."
            for path, array in wanted.items()
            if saved.get(path) != _described(array)
        ]
        if wrong:
            raise ValueError(
                f"Step {step} in {self.folder} is of another model or optimizer:\n- "
                + "\n- ".join(wrong)
                + "\nUse the config that the run began with."
            )
        arguments = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
            arrays = orbax.restore(self._folder(step) / "state", args=arguments)
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[path] for path in wanted])

    def extra(self, step: int) -> dict[str, Any]:
        """The facts about the run that were saved with `step`."""
        return self._facts(step)["extra"]

    def _write(
        self, step: int, arrays: dict[str, jax.Array], source: dict[str, Any], facts: dict[str, Any]
    ) -> None:
        draft = step_folders.draft(self.folder, step)
        # Nothing else may run on the devices while processes meet: CPU programs can deadlock.
        jax.block_until_ready(arrays)
        _alone(lambda: step_folders.begin(self.folder, step), f"began {step}")
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
            orbax.save(draft / "state", args=ocp.args.PyTreeSave(arrays))
        host_state.write(draft / f"source_{jax.process_index()}", source)
        _meet(f"wrote {step}")
        _alone(lambda: step_folders.commit(self.folder, step, facts), f"saved {step}")
        _alone(lambda: self._prune(step), f"pruned before {step}")

    def _prune(self, step: int) -> None:
        metrics = step_folders.metrics(self.folder)
        keep = self._retention.kept({s: metrics[s] for s in metrics if s <= step})
        for other in {*step_folders.present(self.folder)} - keep:
            if other > step or other not in metrics:
                _log.warning("Deleting %s: damaged, or of a later step.", self._folder(other))
            self._intact.discard(other)
            step_folders.delete(self.folder, other)

    def _folder(self, step: int) -> Path:
        return step_folders.named(self.folder, step)

    def _facts(self, step: int) -> dict[str, Any]:
        """What the manifest of `step` says, if it is intact."""
        if step not in self._intact and self._first_intact([step]) is None:
            wrong = self.damaged.get(step, ["process 0 says why"])
            raise ValueError(
                f"Step {step} in {self.folder} cannot be restored: {'; '.join(wrong)}."
                f" There are steps {self.steps()}."
            )
        return manifest.read(self._folder(step))

    def _first_intact(self, steps: Iterable[int]) -> int | None:
        """The first of `steps` that verifies; process 0 looks, for all."""
        found = None
        if jax.process_index() == 0:
            found = next((step for step in steps if self._is_intact(step)), None)
        if jax.process_count() > 1:
            told = int(
                multihost_utils.broadcast_one_to_all(np.int32(-1 if found is None else found))
            )
            found = None if told < 0 else told
        if found is not None:
            self._intact.add(found)
        return found

    def _is_intact(self, step: int) -> bool:
        wrong = step_folders.problems(self.folder, step)
        if wrong:
            self.damaged[step] = wrong
            _log.error("%s is damaged and does not count: %s", self._folder(step), "; ".join(wrong))
        return not wrong


_log = logging.getLogger(__name__)


def _by_path(tree: PyTree) -> dict[str, Any]:
    """Leaves by their path, in order: `params.layers.mlp.up`."""
    leaves = jax.tree.leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two arrays have the same path"
    return named


def _described(array: jax.Array | jax.ShapeDtypeStruct) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _alone(act: Callable[[], None], name: str) -> None:
    """Process 0 acts while the others wait."""
    if jax.process_index() == 0:
        act()
    _meet(name)


def _meet(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint: {name}")


def _os_error(error: OSError | ValueError) -> int | None:
    """The number of the operating system's error behind this one, if there is one.

    TensorStore, which writes for Orbax, raises a ValueError with the number in its text.
    """
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None
