"""`rlft inspect`: what a config's data becomes."""

from collections.abc import Sequence


def inspect(*, config: str, examples: int = 3, overrides: Sequence[tuple[str, str]] = ()) -> None:
    """Shows what a config's data becomes: loss masks, lengths, what is dropped.

    Args:
        config: Config file; settings can be changed as for `rlft train`.
        examples: How many to show.
    """
    from rlft_jax.config.binding import read
    from rlft_jax.config.schema import resolved

    settings = resolved(read(config), overrides)

    import numpy as np

    from rlft_jax.batch import Example
    from rlft_jax.config.checks import is_rl
    from rlft_jax.data import inspection
    from rlft_jax.data.problems import encode_problem
    from rlft_jax.runs import loading
    from rlft_jax.runs.plan import count_steps, read_data

    origin = loading.find(settings["model"]["path"])
    data = read_data(settings, origin)
    items = [item for part in data.parts for item in part[:examples]]
    if is_rl(settings):  # problems: prompts without a response yet
        prompts = [np.array(encode_problem(item, origin.tokenizer), np.int32) for item in items]
        items = [Example(prompt, np.zeros(len(prompt), bool)) for prompt in prompts]
    print(inspection.describe(data.report, items, origin.tokenizer, count=examples))
    print(f"\n{count_steps(settings, data.size)} steps; {len(data.heldout)} rows held out.")
