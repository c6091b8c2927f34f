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

    Args:
        run: The run directory.
        out: The folder to write; it must not exist, or be empty.
        step: Which checkpoint; the best if the run kept any as such, otherwise the newest.
        dtype: Type of the weights in the files.
        adapter: Write the adapters alone, for PEFT; otherwise the whole model, adapters merged.
    """
    from rlft_jax.runs import exporting

    exporting.export(run, Path(out), step=step, dtype=dtype, adapter=adapter)
    print(f"Wrote {out}.")
