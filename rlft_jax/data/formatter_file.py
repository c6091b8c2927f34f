"""The formatter that a reward model was trained with, beside it in its folder."""

import json
import os
import pathlib
from typing import Any

from rlft_jax.data.formatting import Formatter, Preset, TooLong, default_preset
from rlft_jax.data.tokenizer import Tokenizer
from rlft_jax.files import written_whole

NAME = "rlft_formatter.json"


def save_formatter(formatter: Formatter, folder: str | os.PathLike[str]) -> None:
    """Writes what `load_formatter` checks against."""
    with written_whole(pathlib.Path(folder) / NAME) as file:
        written = {**formatter.description, "fingerprint": formatter.fingerprint}
        file.write(json.dumps(written, indent=2) + "\n")


def load_formatter(
    folder: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    positions: int,
    preset: Preset | None = None,
    tokens: int | None = None,
    too_long: TooLong | None = None,
    is_new: bool = False,
) -> Formatter:
    """Returns the formatter that a reward model was trained with.

    Args:
        folder: Of the reward model. Where it holds no formatter, because somebody else trained
            the model, what the user chose counts, and for the rest the usual form.
        tokenizer: Of the reward model.
        positions: The most tokens that the model can read.
        preset, tokens, too_long: What the user chose, where that is not None.
        is_new: Whether the model is yet to be trained, so that what the folder holds is of no
            matter.

    Raises:
        ValueError: If this is not how the model was trained, or the tokenizer is another one.
    """
    chosen = {"preset": preset, "tokens": tokens, "too_long": too_long}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    stored = None if is_new else read_formatter(folder)
    if stored is None:
        usual = {"preset": default_preset(tokenizer), "tokens": positions}
        formatter = Formatter(tokenizer, **{**usual, **chosen})
        if formatter.tokens > positions:
            raise ValueError(
                f"tokens = {formatter.tokens} is more than the {positions} that the reward model in"
                f" {os.fspath(folder)} can read. Lower it (in training, config.batch.tokens)."
            )
        return formatter
    differing = _differing(stored, {**chosen, "tokenizer": tokenizer.fingerprint})
    if differing:
        _refuse(folder, differing)
    settings = {name: stored[name] for name in ("preset", "tokens", "too_long")}
    return Formatter(tokenizer, **settings)


def check_formatter(folder: str | os.PathLike[str], formatter: Formatter) -> None:
    """Refuses a formatter that is not the one which the reward model in `folder` was trained with.

    Raises:
        ValueError: Saying what differs. A folder that holds no formatter takes any.
    """
    stored = read_formatter(folder)
    differing = [] if stored is None else _differing(stored, formatter.description)
    if differing:
        _refuse(folder, differing)


def read_formatter(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what is written about the formatter in a folder; None if nothing is.

    Raises:
        ValueError: If the file is not as `save_formatter` left it.
    """
    path = pathlib.Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}. Copy it from the training run.") from error
    needed = {"preset", "tokens", "too_long", "tokenizer"}
    if not isinstance(stored, dict) or not needed <= stored.keys():
        raise ValueError(
            f"{path} does not hold {', '.join(sorted(needed))}. Copy it from the training run."
        )
    return stored


def _differing(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    return [
        f"- {name} was {stored[name]!r} in training, and is {value!r}."
        for name, value in given.items()
        if stored[name] != value
    ]


def _refuse(folder: str | os.PathLike[str], differing: list[str]) -> None:
    raise ValueError(
        f"The reward model in {os.fspath(folder)} would be scored on other texts than it was"
        " trained on:\n" + "\n".join(differing) + "\nSet what was set in training (there,"
        " config.batch.tokens and config.formatter), and use the tokenizer in the model's folder."
        f" To score with another format all the same, delete {NAME} there."
    )
