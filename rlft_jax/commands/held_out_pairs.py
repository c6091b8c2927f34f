"""The pairs that a run held out, to measure it on once more."""

from pathlib import Path
from typing import Any

from rlft_jax.config.binding import bind
from rlft_jax.config.derived import is_rl
from rlft_jax.data.preferences import Preferences
from rlft_jax.data.readers import Rows
from rlft_jax.data.reward_data import RewardData, prompt_of
from rlft_jax.runs.loading import read_config
from rlft_jax.training.run_directory import RunDirectory


def config_of(model: str) -> dict[str, Any] | None:
    """The config of a run directory; None of another model."""
    run = RunDirectory(Path(model).expanduser().absolute())
    return read_config(run) if run.model.is_dir() else None


def held_out_pairs(model: str) -> tuple[Rows, str]:
    """Returns the rows that a run held out by prompt, and what to call them in a report.

    Raises:
        ValueError: If the model is no run that learnt from pairs, or it held nothing out.
    """
    config = config_of(model)
    objective = None if config is None else config["objective"]["name"]
    if config is None or is_rl(config) or objective not in ("dpo", "reward_model"):
        raise ValueError(
            f"--data is missing, and --model={model} is no run that held out pairs. Name a file,"
            " folder or hub data set of pairs."
        )
    if objective == "dpo":
        _, held, _ = bind(Preferences, config["data"])().divided_by_prompt(config["seed"])
    else:
        of = prompt_of(config["objective"]["loss"])
        _, held, _ = bind(RewardData, config["data"])().divided_by_prompt(config["seed"], of)
    rows = [row for _, part in held for row in part]
    if not rows:
        raise ValueError(f"--data is missing, and the run {model} held nothing out. Name data.")
    return Rows(rows, range(len(rows))), f"what {model} held out"
