"""Folders of steps, each of which is there whole or not at all.

A step is made as a draft, and gets its name by one rename when it is complete and on the disk. On
the way out it loses the name first. So a killed process never leaves half a step under its name.
"""

import shutil
from pathlib import Path
from typing import Any

from rlft_jax import files
from rlft_jax.training import manifest

FORMAT = 1
WRITING, DELETING = ".writing", ".deleting"


def named(parent: Path, step: int) -> Path:
    """The folder of a step."""
    return parent / f"{step:08d}"


def present(parent: Path) -> list[int]:
    """Steps that have a folder, whole or damaged, oldest first."""
    names = [path.name for path in parent.iterdir()] if parent.exists() else []
    return sorted(int(name) for name in names if len(name) >= 8 and name.isdecimal())


def metrics(parent: Path) -> dict[int, float | None]:
    """The metric of each step that has a readable manifest; its files are not checked."""
    found = {}
    for step in present(parent):
        try:
            found[step] = manifest.read(named(parent, step))["metric"]
        except ValueError:
            continue  # damaged; whoever looks for a step to restore hears of it
    return found


def problems(parent: Path, step: int) -> list[str]:
    """What is wrong with a step, after reading all of it; nothing if it can be relied on."""
    wrong = manifest.problems(named(parent, step))
    if wrong:
        return wrong
    facts = manifest.read(named(parent, step))
    if facts["format"] != FORMAT:
        return [f"it has format {facts['format']}, and this version reads {FORMAT}"]
    return [] if facts["step"] == step else [f"it is step {facts['step']} under another name"]


def draft(parent: Path, step: int) -> Path:
    """Where to make a step."""
    return parent / f"{step:08d}{WRITING}"


def begin(parent: Path, step: int) -> None:
    """Makes room for the draft of a step, and clears what killed processes have left."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in [*parent.glob(f"*{WRITING}"), *parent.glob(f"*{DELETING}")]:
        shutil.rmtree(left)
    draft(parent, step).mkdir()


def commit(parent: Path, step: int, facts: dict[str, Any]) -> None:
    """Makes the draft count, in place of what has its name."""
    manifest.write(draft(parent, step), {"format": FORMAT, "step": step, **facts})
    if named(parent, step).exists():
        delete(parent, step)
    draft(parent, step).rename(named(parent, step))
    files.sync(parent)


def delete(parent: Path, step: int) -> None:
    """Deletes a step."""
    doomed = parent / f"{step:08d}{DELETING}"
    named(parent, step).rename(doomed)
    shutil.rmtree(doomed)
