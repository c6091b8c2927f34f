"""One run: its parts put together, and the loop."""

import contextlib
import functools
import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax

from rlft_jax.config.checks import at
from rlft_jax.config.schema import MAY_DIFFER
from rlft_jax.models.digest import digest
from rlft_jax.progress import is_first_process, progress, say
from rlft_jax.rewards import RewardError
from rlft_jax.rollout import Rollout
from rlft_jax.runs import held_out, learned_rewards, loading, reference_cache, weights
from rlft_jax.runs.plan import Config, Plan, make_plan
from rlft_jax.runs.sources import make_source, reference_score
from rlft_jax.selection import GROUP
from rlft_jax.training import hooks, memory
from rlft_jax.training.checkpoint import Checkpoints
from rlft_jax.training.loop import Hook, Progress, Source, Step, Stopped
from rlft_jax.training.loop import run as loop
from rlft_jax.training.preemption import Preemption
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


def run(config: Config, workdir: str | Path) -> None:
    """Trains what a resolved config says, or goes on with the run in `workdir`.

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
        if is_first_process():
            stack.enter_context(lock(directory))
            record_config(directory, config, may_differ=may_differ(directory, config))
            record_versions(directory)
            origin = plan.origin
            loading.keep_small_files(origin.folder, origin.tokenizer, plan.formatter, directory)
        train(plan, directory, preemption)


def check_folder(directory: RunDirectory) -> None:
    """Refuses a folder in which a run would write over what is not its own.

    Raises:
        ValueError: If so.
    """
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


def train(plan: Plan, directory: RunDirectory, preemption: Preemption) -> None:
    """Trains from the newest checkpoint, or from the start."""
    checkpoints = loading.checkpoints(directory, plan.config)
    begun = checkpoints.latest() or 0
    if not begun and checkpoints.damaged:
        raise ValueError(
            f"No checkpoint in {directory.checkpoints} is whole: {checkpoints.damaged}."
            " Restore one of them, or choose another --workdir to begin again."
        )
    history = past_evaluations(plan.config, directory, begun)
    if begun >= plan.steps:
        say(f"{directory.path} is at step {begun} of {plan.steps}: nothing is left to do.")
        return
    if history is not None and history.is_over(plan.config["stop"]["patience"]):
        say(f"{directory.path} stopped early at step {begun}; raise config.stop.patience to go on.")
        return
    watch = past_rollouts(plan.config, directory, begun)
    if watch is not None and watch.is_cheated:
        say(f"{directory.path} stopped early at step {begun}; change config.stop.watch to go on.")
        return
    say(summary(plan, begun))

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
    source = make_source(plan, frozen, reference)
    state = restored(plan, checkpoints, begun, source, facts) or weights.load_state(plan)

    with contextlib.ExitStack() as stack:
        report = None
        if is_first_process():
            # What was written before the first save is written again, step 0 included.
            report = Report(directory, after=begun or -1, **plan.config["log"])
            stack.callback(report.close)
        saver = hooks.Saver(
            checkpoints,
            source,
            report,
            history,
            facts,
            every=plan.config["every"]["save"],
            steps=plan.steps,
        )
        bar = stack.enter_context(progress("Training", plan.steps, unit="steps", done=begun))
        evaluate = make_evaluation(plan, frozen, reference, report, history)
        after_step = make_hooks(
            plan, state, source, report, history, watch, saver, preemption, bar, evaluate
        )
        step = compiled_step(plan, frozen)
        if not begun and plan.config["every"]["evaluate_first"]:
            evaluate(Progress(0, state, {}, {}))
        try:
            loop(state, source, plan.feed, step, steps=plan.steps, hooks=after_step)
        except Stopped as reason:
            say(f"Stopped early: {reason}.")
        except RewardError:
            saver.save()
            raise


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
) -> Hook:
    """Measures on held-out data when it is time to."""
    every = plan.config["every"]["evaluate"]
    if not every:
        return lambda progress: None
    measure = held_out.measure(plan, frozen, reference)
    return hooks.evaluate(report, measure, history, every=every, steps=plan.steps)


def make_hooks(
    plan: Plan,
    state: TrainState,
    source: Source,
    report: Report | None,
    history: hooks.History | None,
    watch: hooks.Watch | None,
    saver: hooks.Saver,
    preemption: Preemption,
    bar: hooks.Advance,
    evaluate: Hook,
) -> list[Hook]:
    """What happens after a step, in order: what a checkpoint should know comes before it."""
    every, steps = plan.config["every"], plan.steps
    tokens = state.tokens.value
    after_step = [hooks.log(report, bar, tokens=tokens, every=every["log"], steps=steps)]
    if isinstance(source, Rollout):
        after_step.append(hooks.table(report, lambda: source.table, every=every["samples"]))
    stop = plan.config["stop"]
    end = hooks.end(
        saver,
        preemption,
        history,
        watch,
        log_every=every["log"],
        steps=steps,
        patience=stop["patience"],
        skipped=stop["skipped"],
    )
    return [*after_step, evaluate, saver, end]


def compiled_step(plan: Plan, frozen: Params) -> Step:
    """The train step on the mesh, its state donated."""
    step = jax.jit(
        functools.partial(
            train_step,
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
    return lambda state, batch: step(state, frozen, batch)


def past_evaluations(config: Config, directory: RunDirectory, begun: int) -> hooks.History | None:
    """What was measured up to step `begun`, if anything depends on it."""
    if not config["keep"]["best"] and not config["stop"]["patience"]:
        return None
    metric = config["keep"]["metric"]
    lines = [line for line in logged(directory, begun) if metric in line]
    value = lambda line: math.nan if line[metric] is None else line[metric]  # null: not finite
    return hooks.History(metric, [(line["step"], value(line)) for line in lines])


def past_rollouts(config: Config, directory: RunDirectory, begun: int) -> hooks.Watch | None:
    """What rollouts earned up to step `begun`, if anything depends on it."""
    reward, window = config["stop"]["watch"], config["stop"]["window"]
    if reward is None:
        return None
    watch = hooks.Watch(reward, window)
    for line in logged(directory, begun):
        if "reward" in line:
            watch.add(line)
    return watch


def logged(directory: RunDirectory, begun: int) -> Iterator[dict[str, Any]]:
    """What was logged up to step `begun`."""
    for line in directory.metrics.read_text().splitlines() if begun else ():
        values = json.loads(line) if line.endswith("}") else {"step": begun + 1}
        if values["step"] <= begun:
            yield values


UNITS = {"sft": "examples", "dpo": "pairs", "reward_model": "pairs"}


def unit_of(config: Config) -> str:
    """What a run's data is counted in."""
    if config["objective"].get("loss") == "regression":
        return "texts"
    return "problems" if config["rollout"] else UNITS[config["objective"]["name"]]


def group_size(config: Config) -> int:
    """Responses to a prompt that a step learns from."""
    if at(config, "selection.name") in GROUP:
        return GROUP[config["selection"]["name"]]
    if config["rollout"] is not None:
        return config["rollout"]["responses"]
    return 2 if config["objective"].get("loss", "") not in ("", "regression") else 1


def summary(plan: Plan, begun: int) -> str:
    """What is about to happen, and what it takes of each device's memory."""
    config, data = plan.config, plan.data.report
    rows, compute = config["batch"], plan.base.compute
    group = group_size(config)
    needed = memory.state_bytes(plan.shapes, plan.where)
    whole = memory.parameter_bytes(plan.base.params, plan.whole_where)
    if config["lora"] is not None:
        needed["frozen base"] = whole
    elif weights.needs_reference(config) and not config["cache_reference"]:
        needed["reference"] = whole
    responses = rows["prompts"] // rows["micro_batches"] // jax.process_count() * group
    needed |= memory.activation_bytes(
        plan.origin.architecture,
        compute,
        plan.mesh,
        responses=responses,
        tokens=rows["tokens"],
        has_logits=config["objective"]["name"] != "reward_model",
    )
    if plan.scorers:
        needed["reward models"] = sum(
            memory.parameter_bytes(scorer.structure.params, scorer.where)
            for scorer in plan.scorers.values()
        )
    if plan.is_rl:
        needed["sampler's weights"] = memory.parameter_bytes(
            plan.base.params, jax.tree.map(lambda _: replicated(plan.mesh), plan.base.params)
        )
        needed["cache"] = memory.cache_bytes(
            plan.policy.architecture,
            compute,
            rows=config["sampling"]["batch_rows"],
            tokens=rows["tokens"],
        )
    kinds = ", ".join(f"{kind} {memory.readable(size)}" for kind, size in needed.items())
    losses = [f"{count} dropped that {why}" for why, count in data.losses.items() if count]
    kept = ", ".join([f"{data.kept} {unit_of(config)} kept, {data.truncated} of them cut", *losses])
    return "\n".join(
        [
            f"{'Going on after step ' + str(begun) if begun else 'Training'} for"
            f" {plan.steps - begun} steps on {plan.mesh.size} device(s):"
            f" {', '.join(f'{axis} {size}' for axis, size in plan.mesh.shape.items())}.",
            f"Data: {kept}; {len(plan.data.heldout)} held out.",
            *(learned_rewards.described(name, scorer) for name, scorer in plan.scorers.items()),
            f"Memory of a device, at most: {memory.readable(sum(needed.values()))} ({kinds}).",
        ]
    )
