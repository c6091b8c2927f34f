"""`rlft train`: one experiment."""

from collections.abc import Sequence


def train(*, config: str, workdir: str, overrides: Sequence[tuple[str, str]] = ()) -> None:
    """Trains what a config file says, or goes on with a run that was stopped.

    A run that is stopped by SIGTERM or Ctrl-C saves first and exits with code 75.

    Args:
        config: Config file; any setting of it can be changed with --config.SECTION.SETTING=VALUE.
        workdir: Where the run's checkpoints, metrics and samples go.
    """
    from rlft_jax.config.binding import read
    from rlft_jax.config.schema import resolved

    settings = resolved(read(config), overrides)

    from rlft_jax.runs import experiment

    experiment.run(settings, workdir)
