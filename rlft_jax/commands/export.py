"""`rlft export`: a run as a Hugging Face folder."""

from pathlib import Path
from typing import Literal


def export(
    *,
    run: str,
    out: str,
    step: int | None = None,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    adapter: bool = False,
) -> None:
    """Turns a run into a Hugging Face folder, or into a PEFT adapter.

    It works in the host's memory and takes no accelerator, so the run may still be training.

    Args:
        run: The run directory.
        out: The folder to write; it must not exist, or be empty.
        step: Which checkpoint; the best if the run kept any as such, otherwise the newest.
        dtype: Type of the weights in the files.
        adapter: Write the adapters alone, for PEFT; otherwise the whole model, adapters merged.
    """
    import jax

    # Before jax looks for devices: it would seize memory of those that another process uses.
    jax.config.update("jax_platforms", "cpu")
    from rlft_jax.runs import exporting

    exporting.export(run, Path(out), step=step, dtype=dtype, adapter=adapter)
    print(f"Wrote {out}.")
