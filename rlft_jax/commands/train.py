"""`rlft train`: one experiment."""

from collections.abc import Sequence


def train(
    *,
    config: str,
    workdir: str,
    profile: str | None = None,
    deterministic: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
) -> None:
    """Trains what a config file says, or goes on with a run that was stopped.

    A run that is stopped by SIGTERM or Ctrl-C saves first and exits with code 75.

    Args:
        config: Config file; any setting of it can be changed with --config.SECTION.SETTING=VALUE.
        workdir: Where the run's checkpoints, metrics and samples go.
        profile: Steps to trace, as START:STOP; 10:12 are three. TensorBoard opens the run's
            profile folder, and Perfetto a file in it.
        deterministic: Whether GPUs leave out what gives other bits every time, which is slower,
            so that a run that was stopped ends there, too, as if it had not been, as long as the
            cache of compiled programs is kept. CPUs and TPUs always do.
    """
    if deterministic:
        from rlft_jax.environment import make_deterministic

        make_deterministic()

    from rlft_jax.config.binding import read
    from rlft_jax.config.schema import resolved
    from rlft_jax.runs.requirements import misfits, missing
    from rlft_jax.training.profiling import parse_steps

    steps = None if profile is None else parse_steps(profile)
    settings = resolved(read(config), overrides, checks=[misfits, missing])

    from rlft_jax.runs import experiment

    experiment.run(settings, workdir, profile=steps)
