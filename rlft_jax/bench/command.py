"""From the flags of `rlft bench` to a measurement and its report."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlft_jax.bench import ceilings, decode, loss, report, startup, training, workloads
from rlft_jax.config import binding
from rlft_jax.config.derived import at, drawing
from rlft_jax.config.schema import resolved
from rlft_jax.config.settings import closest
from rlft_jax.models.qwen2 import Compute
from rlft_jax.runs import loading
from rlft_jax.runs.plan import Config
from rlft_jax.sampling.settings import SamplingSettings

SHAPE = "small"
OVERLAPS = (
    "config.rollout.overlap = True has no effect on a benchmark, which does one thing after another"
    " to time each. Leave it out."
)
# The workload of each kind of work.
KINDS: dict[str, workloads.Kind] = {
    "sft": "sft",
    "dpo": "dpo",
    "reward": "reward",
    "rloo": "rloo",
    "decode": "rloo",
    "loss": "sft",
    "startup": "sft",
}
OBJECTIVES = {"sft": "sft", "dpo": "dpo", "reward": "reward_model", "rloo": "rloo"}


def check(
    what: str,
    *,
    config: str | None,
    shape: str | None,
    rows: Sequence[int],
    steps: int,
    overrides: Sequence[tuple[str, str]],
) -> None:
    """Refuses flags that would do nothing, or make no sense.

    Raises:
        ValueError: With everything that is wrong, a line each.
    """
    overridden, wrong = dict(overrides), []
    if shape is not None and config is not None:
        wrong.append(f"--shape={shape} has no effect with --config, whose model it is. Remove one.")
    if shape is not None and shape not in workloads.SHAPES:
        near = closest(shape, workloads.SHAPES)
        wrong.append(
            f"--shape={shape} does not exist: choose one of {', '.join(workloads.SHAPES)}."
            + (f" Did you mean {near}?" if near else "")
        )
    if rows and what != "decode":
        wrong.append(f"--rows has no effect with --what={what}; it is for decode. Remove it.")
    if what == "decode" and "sampling.batch_rows" in overridden:
        wrong.append(
            "config.sampling.batch_rows has no effect with --what=decode, which decodes all rows at"
            " once. Set --rows."
        )
    if overridden.get("rollout.overlap", "").lower() in ("true", "1"):
        wrong.append(OVERLAPS)
    if any(count < 1 for count in rows):
        wrong.append(f"--rows={','.join(map(str, rows))}: each must be at least 1.")
    if steps < (1 if what in ("decode", "startup") else 0):
        wrong.append(f"--steps={steps} is too few for --what={what}. Raise it.")
    if wrong:
        raise ValueError("\n".join(wrong))


def run(
    what: str,
    *,
    config: str | None,
    shape: str | None,
    rows: Sequence[int],
    steps: int,
    overrides: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Measures, prints and returns the figures; see the command.

    Raises:
        ValueError: If the config cannot run, or is for other work.
    """
    shape = shape or (SHAPE if config is None else None)
    kind = kind_of(config, overrides) if what == "startup" else what
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(kind, config, overrides, Path(folder))
        if at(settings, "rollout.overlap"):
            raise ValueError(f"{OVERLAPS} --config.rollout.overlap=False does so.")
        if what == "startup":
            words = [f"--what={kind}", *(f"--config.{name}={text}" for name, text in overrides)]
            words += [f"--config={config}"] if config is not None else [f"--shape={shape}"]
            machine, found = None, startup.measure(words, steps=steps)
        else:
            if shape is not None and what != "loss":  # which takes the sizes of a model alone
                workloads.write(
                    KINDS[what],
                    Path(folder),
                    workloads.SHAPES[shape],
                    prompts=settings["batch"]["prompts"],
                    tokens=settings["batch"]["tokens"],
                    new=(settings["sampling"] or {}).get("max_new_tokens", 0),
                )
            machine = ceilings.measure()
            found = measured(what, settings, machine, shape=shape, rows=rows, steps=steps)
    name, here = config or f"the {shape} shape", report.machine(machine)
    report.show(what, name, found, here)
    return {"what": what, "workload": name, **found, "machine": here, "config": settings}


def settings_of(
    what: str, config: str | None, overrides: Sequence[tuple[str, str]], folder: Path
) -> Config:
    """The resolved config of the work, which is in `folder` if it is one of ours.

    Raises:
        ValueError: If it cannot run, or is another kind of work.
    """
    if config is None:
        return resolved(workloads.config(KINDS[what], folder), overrides)
    settings = resolved(binding.read(config), overrides)
    given = settings["objective"]["name"]
    if what in OBJECTIVES and given != OBJECTIVES[what]:
        raise ValueError(
            f"--what={what} measures config.objective.name = {OBJECTIVES[what]!r}, but {config} has"
            f" {given!r}. Choose another --what or --config."
        )
    if what == "decode" and settings["sampling"] is None:
        raise ValueError(
            f"--what=decode measures a config's sampling, but {config} samples nothing. Name a"
            " config with a rollout."
        )
    if what == "loss" and given == "reward_model":
        raise ValueError(f"--what=loss measures logits, but {config} trains a reward model.")
    return settings


def kind_of(config: str | None, overrides: Sequence[tuple[str, str]]) -> str:
    """Which training steps a config is about."""
    if config is None:
        return KINDS["startup"]
    given = resolved(binding.read(config), overrides)["objective"]["name"]
    return next(kind for kind, objective in OBJECTIVES.items() if objective == given)


def measured(
    what: str,
    settings: Config,
    machine: ceilings.Ceilings,
    *,
    shape: str | None,
    rows: Sequence[int],
    steps: int,
) -> dict[str, Any]:
    """The figures of one kind of work; `shape` is that of ours, None with a config."""
    if what in OBJECTIVES:
        return training.measure(settings, machine, steps=steps)
    model = {k: v for k, v in settings["model"].items() if k != "path"}
    path, compute, batch = settings["model"]["path"], Compute(**model), settings["batch"]
    if what == "loss":
        rows_of_step = batch["prompts"] // batch["micro_batches"]
        a = loading.find(path).architecture if shape is None else workloads.SHAPES[shape]
        return loss.measure(a, compute, rows=rows_of_step, tokens=batch["tokens"], steps=steps)
    compute = dataclasses.replace(compute, dtype=settings["sampling"]["dtype"] or compute.dtype)
    sampling = SamplingSettings(**drawing(settings))
    rollout = (
        batch["prompts"] * settings["rollout"]["minibatches"] * settings["rollout"]["responses"]
    )
    return decode.measure(
        path,
        compute,
        dataclasses.replace(sampling, batch_rows=rollout),
        machine,
        rows=rows or (rollout,),
        prompt_tokens=min(workloads.PROMPT, batch["tokens"] - sampling.max_new_tokens),
        steps=steps,
    )
