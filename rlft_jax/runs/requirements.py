"""What a run needs of this machine, looked at before anything is read or compiled."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from rlft_jax.config.binding import bind
from rlft_jax.config.derived import at
from rlft_jax.data import readers
from rlft_jax.data.tokenizer import HUB_NAME
from rlft_jax.models import attention
from rlft_jax.training.sharding import make_mesh

Config = dict[str, Any]


def misfits(config: Config) -> Iterator[str]:
    """What does not fit the devices and processes, a sentence each."""
    try:
        bind(make_mesh, config["mesh"])()
    except ValueError as error:
        yield str(error)
    rows = config["batch"]
    if rows["prompts"] // max(rows["micro_batches"], 1) % jax.process_count():
        yield (
            f"config.batch.prompts = {rows['prompts']} in {rows['micro_batches']} micro-batches do"
            f" not divide over {jax.process_count()} processes."
        )
    model = config["model"]
    wrong = attention.problem(model["attention"], dtype=model["dtype"])
    if wrong is not None:
        yield wrong
    form = attention.chosen(model["attention"], dtype=model["dtype"], tokens=rows["tokens"])
    if rows["share_prompts"] and form not in attention.SHARING:
        yield (
            f"config.batch.share_prompts = True needs an attention that can; {form!r} cannot."
            f" Set config.model.attention to one of {', '.join(attention.SHARING)}, or leave"
            " share_prompts at None."
        )


def missing(config: Config) -> Iterator[str]:
    """Which checkpoints and data a config names that are not here and on no hub, a sentence each.

    What may be on a hub is not asked for there.
    """
    for setting, path in _checkpoints(config).items():
        folder = Path(path).expanduser()
        if folder.is_file():
            yield f"config.{setting} = {path!r} is a file. Name the folder of a checkpoint."
        elif not folder.is_dir() and not HUB_NAME.fullmatch(path):
            yield f"config.{setting} = {path!r} is not a folder here, nor can it be a hub name."
    adapter = at(config, "lora.path")
    if adapter is not None and not Path(adapter).expanduser().is_dir():
        yield f"config.lora.path = {adapter!r} is not a folder here. Name one that PEFT wrote."
    for setting, path in _data(config["data"]):
        why = readers.absence(path)
        if why is not None:
            yield f"config.data.{setting} = {path!r} {why}."


def _checkpoints(config: Config) -> dict[str, str]:
    """The settings that name a checkpoint."""
    models = at(config, "reward.models") if config["reward"] is not None else None
    named = {
        "model.path": config["model"]["path"],
        "reference": config["reference"],
        **{f"reward.models.{name}": path for name, path in (models or {}).items()},
    }
    return {setting: path for setting, path in named.items() if path is not None}


def _data(section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings that name data; what they are left at names none."""
    for setting in ("path", "heldout_path"):
        if section[setting]:
            yield setting, section[setting]
    for part in section["mixture"]:
        if isinstance(part.get("path"), str):
            yield "mixture", part["path"]
