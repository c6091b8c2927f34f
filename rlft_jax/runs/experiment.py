"""One run: its parts put together, and the loop."""

import contextlib
import functools
import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rlft_jax.config.derived import best_mode, reward_weights, rollout_steps
from rlft_jax.config.schema import MAY_DIFFER
from rlft_jax.models.digest import digest
from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.progress import is_first_process, progress, say
from rlft_jax.rewards import RewardError
from rlft_jax.rollout import Rollout
from rlft_jax.runs import held_out, loading, reference_cache, weights
from rlft_jax.runs.plan import Config, Plan, make_plan
from rlft_jax.runs.sources import make_source, reference_score
from rlft_jax.runs.summary import summary
from rlft_jax.training import hooks, retention
from rlft_jax.training.checkpoint import Checkpoints
from rlft_jax.training.loop import Hook, Progress, Source, Step, Stopped
from rlft_jax.training.loop import run as loop
from rlft_jax.training.preemption import Preemption
from rlft_jax.training.profiling import Profile, check_steps
from rlft_jax.training.report import Report
from rlft_jax.training.run_directory import (
    RunDirectory,
    check_config,
    lock,
    record_config,
    record_versions,
)
from rlft_jax.training.sharding import replicated
from rlft_jax.training.step import Params, TrainState, train_step


def run(config: Config, workdir: str | Path, *, profile: tuple[int, int] | None = None) -> None:
    """Trains what a resolved config says, or goes on with the run in `workdir`.

    Args:
        config: Resolved.
        workdir: The run directory.
        profile: The first and the last step to trace; none if None.

    Raises:
        ValueError: If something that the config names does not fit, or the run was begun with
            another config.
        SystemExit: With `EXIT_PREEMPTED` after a request to stop, all being saved.
    """
    directory = RunDirectory(Path(workdir).expanduser().absolute())
    check_folder(directory)
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        if is_first_process():
            check_config(directory, config, may_differ=may_differ(directory, config))
        plan = make_plan(config)  # whatever cannot be used is found before anything is written
        if profile is not None:
            check_steps(*profile, steps=plan.steps)
        if is_first_process():
            stack.enter_context(lock(directory))
            record_config(directory, config, may_differ=may_differ(directory, config))
            record_versions(directory)
            origin = plan.origin
            loading.keep_small_files(origin.folder, origin.tokenizer, plan.formatter, directory)
        train(plan, directory, preemption, profile)


def check_folder(directory: RunDirectory) -> None:
    """Refuses a folder in which a run would write over what is not its own.

    Raises:
        ValueError: If so.
    """
    if directory.path.is_file():
        raise ValueError(f"--workdir={directory.path} is a file. Name a folder.")
    config = json.loads(directory.config.read_text()) if directory.config.is_file() else {}
    theirs = [file for file in (directory.config, directory.model) if file.exists()]
    if theirs and "objective" not in config:
        raise ValueError(
            f"--workdir={directory.path} is no run of ours, and holds"
            f" {' and '.join(file.name for file in theirs)}. Choose a new folder."
        )


def may_differ(directory: RunDirectory, config: Config) -> Collection[str]:
    """Settings that need not be those the run began with: all, while nothing has been saved."""
    if not loading.is_begun(directory):
        return ("*",)
    # Other schedules depend on the length of the run, so a longer one would have gone otherwise.
    is_constant = config["optimizer"]["schedule"] == "constant"
    return (*MAY_DIFFER, "steps", "epochs") if is_constant else MAY_DIFFER


def train(
    plan: Plan,
    directory: RunDirectory,
    preemption: Preemption,
    profile: tuple[int, int] | None = None,
) -> None:
    """Trains from the newest checkpoint, or from the start."""
    checkpoints = loading.checkpoints(directory, plan.config)
    begun = newest(checkpoints)
    history = past_evaluations(plan.config, directory, begun)
    watch = past_rollouts(plan.config, directory, begun)
    over = nothing_left(plan, begun, history, watch)
    if over is not None:
        say(f"{directory.path} {over}.")
        return
    say(summary(plan, begun))

    plan, frozen, reference, source, facts = start(plan)
    state = restored(plan, checkpoints, begun, source, facts) or weights.load_state(plan)
    if is_first_process():
        loading.keep_places(directory, plan.config)  # known to be what the run began with

    with contextlib.ExitStack() as stack:
        report = None
        if is_first_process():
            # What was written before the first save is written again, step 0 included.
            report = Report(directory, after=begun or -1, **plan.config["log"])
            stack.callback(report.close)
        training_time = hooks.TrainingTime()
        saver = hooks.Saver(
            checkpoints,
            source,
            report,
            history,
            training_time,
            facts,
            every=plan.config["every"]["save"],
            steps=plan.steps,
        )
        bar = stack.enter_context(progress("Training", plan.steps, unit="steps", done=begun))
        every = plan.config["every"]
        evaluate = make_evaluation(plan, frozen, reference, report, history, training_time)
        tokens = state.tokens.value
        # In this order: what a checkpoint should know comes before it.
        after_step = [
            hooks.log(
                report, bar, training_time, tokens=tokens, every=every["log"], steps=plan.steps
            ),
            *tables(source, report, every=every["samples"]),
            evaluate,
            saver,
            make_end(plan, saver, preemption, history, watch),
        ]
        step = compiled_step(plan, frozen)
        if not begun and every["evaluate_first"]:
            evaluate(Progress(0, state, {}, {}))
        if profile is not None and is_first_process():
            trace = Profile(directory.profile, *profile, begun=begun)
            stack.callback(trace.close)
            after_step.insert(0, trace)
        try:
            loop(state, source, plan.feed, step, steps=plan.steps, hooks=after_step)
        except Stopped as reason:
            say(f"Stopped early: {reason}.")
        except RewardError:
            saver.save()
            raise


def newest(checkpoints: Checkpoints) -> int:
    """The step to go on from; 0 at the beginning.

    Raises:
        ValueError: If there are checkpoints and none is whole.
    """
    begun = checkpoints.latest()
    if begun is None and checkpoints.damaged:
        raise ValueError(
            f"No checkpoint in {checkpoints.folder} is whole: {checkpoints.damaged}."
            " Restore one of them, or choose another --workdir to begin again."
        )
    return begun or 0


def nothing_left(
    plan: Plan, begun: int, history: hooks.History | None, watch: hooks.Watch | None
) -> str | None:
    """Why a run does not go on after step `begun`; None if it does."""
    if begun >= plan.steps:
        return f"is at step {begun} of {plan.steps}: nothing is left to do"
    if history is not None and history.is_over(plan.config["stop"]["patience"]):
        return f"stopped early at step {begun}; raise config.stop.patience to go on"
    if watch is not None and watch.is_cheated:
        return f"stopped early at step {begun}; change config.stop.watch to go on"
    return None


class Start(NamedTuple):
    """What a run begins with, apart from its state.

    Attributes:
        plan: With reward models, and with the reference's scores where they are kept.
        frozen: Parameters that do not train.
        reference: Those of the policy to compare with while training, if any.
        source: At its beginning.
        facts: Digests that a run must go on with.
    """

    plan: Plan
    frozen: Params
    reference: Params | None
    source: Source
    facts: dict[str, str | None]


def start(plan: Plan) -> Start:
    """Reads all weights but those that train, and makes the source."""
    frozen = weights.load_frozen(plan)
    reference = weights.load_reference(plan, frozen)
    plan, digests = weights.load_rewards(plan)
    facts = {"frozen": digest(frozen), "reference": digest(reference), **digests}
    if plan.config["cache_reference"]:
        score, known = reference_score(plan, reference), facts["reference"]
        assert score is not None  # a config without a reference has nothing to keep
        assert known is not None
        plan = reference_cache.with_scores(plan, score, known)
        reference = None
    return Start(plan, frozen, reference, make_source(plan, frozen, reference), facts)


def restored(
    plan: Plan, checkpoints: Checkpoints, begun: int, source: Source, facts: dict
) -> TrainState | None:
    """The state after step `begun`, with the source moved there; None at the beginning.

    Raises:
        ValueError: If what is frozen is not what the run began with.
    """
    if not begun:
        return None
    state, position, before = checkpoints.restore(begun, plan.state_like)
    if before != facts:
        raise ValueError(
            "The frozen parameters are not those that the run began with: their digests were"
            f" {before} and are {facts}. Put back the checkpoint that config.model.path,"
            " config.reference or config.reward.models named then."
        )
    source.restore(position)
    return state


def make_evaluation(
    plan: Plan,
    frozen: Params,
    reference: Params | None,
    report: Report | None,
    history: hooks.History | None,
    training_time: hooks.TrainingTime,
) -> Hook:
    """Measures on held-out data when it is time to."""
    every = plan.config["every"]["evaluate"]
    if not every:
        return lambda progress: None
    measure = held_out.measure(plan, frozen, reference)
    return hooks.evaluate(report, measure, history, training_time, every=every, steps=plan.steps)


def tables(source: Source, report: Report | None, *, every: int) -> list[Hook]:
    """Writes what a policy sampled, where it did."""
    if not isinstance(source, Rollout):
        return []
    return [hooks.table(report, lambda: source.table, every=every)]


def make_end(
    plan: Plan,
    saver: hooks.Saver,
    preemption: Preemption,
    history: hooks.History | None,
    watch: hooks.Watch | None,
) -> Hook:
    """Ends the run for any of the reasons that its config gives, or when asked to."""
    stop = plan.config["stop"]
    return hooks.end(
        saver,
        preemption,
        history,
        watch,
        log_every=plan.config["every"]["log"],
        steps=plan.steps,
        patience=stop["patience"],
        skipped=stop["skipped"],
    )


def compiled_step(plan: Plan, frozen: Params) -> Step:
    """The train step on the mesh, its state donated."""
    step = jitted_step(plan)
    return lambda state, batch: step(state, frozen, batch)


def jitted_step(plan: Plan) -> Any:
    """The same as a jitted function of state, frozen parameters and batch."""
    return jax.jit(
        functools.partial(
            on_mesh(plan.mesh, train_step),
            graph=plan.structure.graph,
            objective=plan.objective,
            optimizer=plan.optimizer,
            seed=plan.config["seed"],
            # Where log-probabilities are compared with others, they have to be the model's own.
            dropout=plan.config["lora"] is not None and plan.config["objective"]["name"] == "sft",
        ),
        out_shardings=(plan.where, replicated(plan.mesh)),
        donate_argnums=0,
    )


def past_evaluations(config: Config, directory: RunDirectory, begun: int) -> hooks.History | None:
    """What was measured up to step `begun`, if anything depends on it."""
    if not config["keep"]["best"] and not config["stop"]["patience"]:
        return None
    metric = config["keep"]["metric"]
    lines = [line for line in logged(directory, begun) if metric in line]
    value = lambda line: math.nan if line[metric] is None else line[metric]  # null: not finite
    past = [(line["step"], value(line)) for line in lines]
    return hooks.History(metric, past, best_mode(config))


def past_rollouts(config: Config, directory: RunDirectory, begun: int) -> hooks.Watch | None:
    """What rollouts earned up to step `begun`, if anything depends on it."""
    reward, window = config["stop"]["watch"], config["stop"]["window"]
    if reward is None:
        return None
    mode = retention.best_mode(f"rewards/{reward}", reward_weights(config))
    watch = hooks.Watch(reward, window, mode, steps=rollout_steps(config))
    for line in logged(directory, begun):
        if "reward" in line:
            watch.add(line["step"], line)
    return watch


def logged(directory: RunDirectory, begun: int) -> Iterator[dict[str, Any]]:
    """What was logged up to step `begun`."""
    for line in directory.metrics.read_text().splitlines() if begun else ():
        values = json.loads(line) if line.endswith("}") else {"step": begun + 1}
        if values["step"] <= begun:
            yield values
