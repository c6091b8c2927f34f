"""Runs as folders that `transformers`, PEFT and what builds on them can load."""

from pathlib import Path

from rlft_jax.data.formatter_file import save_formatter
from rlft_jax.models import convert, peft, qwen2, reward
from rlft_jax.models.new_folder import new_folder
from rlft_jax.progress import say
from rlft_jax.runs import loading, reward_models
from rlft_jax.training.run_directory import RunDirectory


def export(
    run: str, out: Path, *, step: int | None = None, dtype: str = "bfloat16", adapter: bool = False
) -> None:
    """Writes a checkpoint of a run as a folder, whole or not at all, from the host's memory.

    Args:
        step: The best, if the run kept any as such, otherwise the newest.
        adapter: Write the adapters alone, in PEFT's format.

    Raises:
        ValueError: If there is no such checkpoint, or the run has no adapters to write alone.
    """
    directory = RunDirectory(Path(run).expanduser().absolute())
    if not directory.model.is_dir():
        raise ValueError(
            f"{run} is no run directory: it has no {directory.model.name}/."
            " Name what --workdir was."
        )
    config = loading.read_config(directory)
    step = loading.chosen_step(directory, config, step)
    if adapter:
        _export_adapter(directory, config, step, out, dtype)
        return
    if loading.is_of_reward_model(directory):
        _export_reward_model(run, step, out, dtype)
        return
    origin = loading.find(run)
    with new_folder(out) as folder:
        write(origin, folder, step=step, dtype=dtype)


def write(run: str | loading.Origin, folder: Path, *, step: int | None = None, dtype: str) -> None:
    """Writes a policy's weights, configs and tokenizer into an existing folder."""
    policy = loading.load(run, step=step, shardings=loading.host())
    origin = policy.origin
    convert.save(folder, policy.params, origin.architecture, dtype=dtype, source=origin.folder)
    origin.tokenizer.save(folder)


def _export_reward_model(run: str, step: int, out: Path, dtype: str) -> None:
    origin = reward_models.find(run)
    params = reward_models.load(origin, step=step, shardings=loading.host())
    tokenizer, formatter = origin.tokenizer, origin.formatter
    with new_folder(out) as folder:
        how = {"dtype": dtype, "source": origin.folder, "pad_id": tokenizer.pad_id}
        reward.save(folder, params, origin.architecture, **how)
        tokenizer.save(folder)
        save_formatter(formatter, folder)
    (probe,) = formatter.texts([("a", "a")])
    is_decoder = isinstance(origin.architecture, qwen2.Architecture)
    if is_decoder and probe.tokens[-1] == tokenizer.pad_id:
        say(
            "transformers reads the score before padding, and texts end with the token that pads:"
            " its scores will not be these. Score with rlft score."
        )


def _export_adapter(
    directory: RunDirectory,
    config: dict,
    step: int,
    out: Path,
    dtype: str,
) -> None:
    if config["lora"] is None:
        raise ValueError(
            f"{directory.path} trained all parameters, so it has no adapters to export alone."
            " Leave --adapter out."
        )
    architecture = loading.find(str(directory.path)).architecture
    settings, params = loading.adapter_of(directory, architecture, config, step)
    with new_folder(out) as folder:
        peft.save(folder, params, settings, base=config["model"]["path"], dtype=dtype)
