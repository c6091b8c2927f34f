"""Runs as folders that `transformers`, PEFT and what builds on them can load."""

from pathlib import Path

from rlft_jax.models import convert, peft
from rlft_jax.models.new_folder import new_folder
from rlft_jax.runs import loading
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
    origin, config = loading.find(run), loading.read_config(directory)
    step = loading.chosen_step(directory, config, step)
    if adapter:
        _export_adapter(directory, origin, config, step, out, dtype)
        return
    with new_folder(out) as folder:
        write(origin, folder, step=step, dtype=dtype)


def write(run: str | loading.Origin, folder: Path, *, step: int | None = None, dtype: str) -> None:
    """Writes a policy's weights, configs and tokenizer into an existing folder."""
    policy = loading.load(run, step=step, shardings=loading.host())
    origin = policy.origin
    convert.save(folder, policy.params, origin.architecture, dtype=dtype, source=origin.folder)
    origin.tokenizer.save(folder)


def _export_adapter(
    directory: RunDirectory,
    origin: loading.Origin,
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
    settings, params = loading.adapter_of(directory, origin.architecture, config, step)
    with new_folder(out) as folder:
        peft.save(folder, params, settings, base=config["model"]["path"], dtype=dtype)
