"""`rlft quickstart`: the whole loop on this machine."""


def quickstart(*, workdir: str = "quickstart", seed: int = 0) -> None:
    """The whole loop on this machine in minutes: SFT, RLOO, best-of-N, export.

    A tiny model, made on the spot, learns Countdown with three numbers up to 20. Killed and
    started again, it goes on where it was.

    Args:
        workdir: Where everything goes: summary.json, report.html, export/ and the runs.
        seed: Of problems, model and training.
    """
    from pathlib import Path

    from rlft_jax.quickstart import loop, report

    folder = Path(workdir).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    report.show(folder, loop.quickstart(folder, seed))
