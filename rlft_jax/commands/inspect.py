"""`rlft inspect`: what a config's data becomes."""

from collections.abc import Sequence


def inspect(*, config: str, examples: int = 3, overrides: Sequence[tuple[str, str]] = ()) -> None:
    """Shows what a config's data becomes: loss masks, lengths, what is dropped.

    Args:
        config: Config file; settings can be changed as for `rlft train`.
        examples: How many to show.
    """
    if examples < 0:
        raise ValueError(f"--examples={examples} must be at least 0.")

    from rlft_jax.config.binding import read
    from rlft_jax.config.schema import resolved
    from rlft_jax.runs.requirements import missing

    # The devices of the run need not be here.
    settings = resolved(read(config), overrides, checks=[missing])

    from rlft_jax.data import inspection
    from rlft_jax.runs.plan import count_steps, parts_of

    origin, _, _, data = parts_of(settings)
    items = [item for part in data.parts for item in part[:examples]]
    shown = [e for item in items[:examples] for e in inspection.examples_of(item, origin.tokenizer)]
    print(inspection.describe(data.report, shown, origin.tokenizer, count=len(shown)))
    print(f"\n{count_steps(settings, data.size)} steps; {len(data.heldout)} rows held out.")
