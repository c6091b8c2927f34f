"""`rlft bench`: how fast, and how near to what the machine can do."""

from collections.abc import Sequence
from typing import Literal

What = Literal["sft", "dpo", "reward", "rloo", "decode", "loss", "startup"]


def bench(
    *,
    what: What,
    config: str | None = None,
    json: str | None = None,
    shape: str | None = None,
    rows: tuple[int, ...] = (),
    steps: int = 10,
    overrides: Sequence[tuple[str, str]] = (),
) -> None:
    """Measures speed and memory of training, decoding or starting on this machine.

    Steps are those that `rlft train` takes, each waited for; a figure is the median after a
    warm-up. Without a config the work is a small Qwen2 (4 layers of width 256, vocabulary 4,096)
    with random weights: 8 texts of 256 tokens for SFT, 8 pairs of them for DPO and (of 254) reward
    models, and for RLOO 4 completions of 64 tokens to each of 2 prompts of 122. Any setting of a
    config can be changed, with or without a file: --config.batch.tokens=1024.

    Args:
        what: Training steps, completions, the head with its gradient, or the time to start.
        config: Config file of the run to measure.
        json: Where to write the figures, too.
        shape: Of the model where there is no config: small or qwen2.5-0.5b.
        rows: For decode: completions to write at once, one measurement each. If left out, those
            of a rollout.
        steps: Measurements to take the median of; 0 compiles and does not run.
    """
    from rlft_jax.bench import command
    from rlft_jax.commands.outputs import outputs

    work: dict = dict(config=config, shape=shape, rows=rows, steps=steps, overrides=overrides)
    command.check(what, **work)
    with outputs(json, None) as out:
        out.finish(command.run(what, **work))
