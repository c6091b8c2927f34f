"""Steps of training, as `rlft train` takes them: source, feed and compiled step of a plan."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlft_jax.bench import flops
from rlft_jax.bench.ceilings import Ceilings
from rlft_jax.bench.compiled import Compiled, peak_bytes
from rlft_jax.bench.timing import Seconds, Stopwatch, compilations
from rlft_jax.config.derived import needs_reference, rollout_steps
from rlft_jax.models import qwen2
from rlft_jax.progress import progress
from rlft_jax.runs import experiment, sources, weights
from rlft_jax.runs.plan import Config, Plan, make_plan
from rlft_jax.training.loop import Source
from rlft_jax.training.step import AnyBatch, Params

# Rounds before those that count: the first compiles, and the next may meet other shapes.
WARMUP = 3


class Rollouts:
    """What the rollouts of a round wrote, while their parts are timed."""

    def __init__(self, watch: Stopwatch):
        self._watch = watch
        self.prompts: list[int] = []
        self.new: list[list[int]] = []

    def engine(self, plan: Plan, frozen: Params, reference: Params | None) -> sources.Engine:
        """The engine of a plan, timed."""
        engine, timed = sources.make_engine(plan, frozen, reference), self._watch.timed

        def sample(params: Params, prompts: list[list[int]], *how: Any) -> list[list[Any]]:
            groups = engine.sample(params, prompts, *how)
            self.prompts += map(len, prompts)
            self.new += [[len(completion.tokens) for completion in group] for group in groups]
            return groups

        scores = {
            name: timed("scoring", score)
            for name in ("old_score", "reference_score")
            if (score := getattr(engine, name)) is not None
        }
        return engine._replace(
            sample=timed("generation", sample), reward=timed("rewards", engine.reward), **scores
        )

    def taken(self) -> tuple[list[int], list[list[int]]]:
        """Lengths of prompts and completions since this was last asked for."""
        found, self.prompts, self.new = (self.prompts, self.new), [], []
        return found


class Round(NamedTuple):
    """Steps that belong together: those that share a rollout, else a single one.

    Attributes:
        parts: Seconds of the parts of a round.
        lengths: Tokens of every text that was trained on, prompts included.
        used: Tokens that were computed: a prompt that texts share counts once.
        scored: Tokens that bear the loss.
        places: Tokens that there was room for.
        samples: Texts that were trained on.
        new: Tokens that were sampled.
        flops: That the round asks for; None where no formula is known.
    """

    seconds: float
    parts: dict[str, float]
    lengths: Sequence[int]
    used: int
    scored: int
    places: int
    samples: int
    new: int
    flops: int | None


def measure(config: Config, ceilings: Ceilings, *, steps: int) -> dict[str, Any]:
    """Times steps of what a resolved config trains.

    Args:
        config: Of a run.
        ceilings: What a device can do.
        steps: Rounds that count; with 0 the step is compiled and not run.
    """
    with compilations() as compiling:
        plan = make_plan(config)
        start = experiment.start(plan)
        plan, frozen, state = start.plan, start.frozen, weights.load_state(plan)
        watch, source = Stopwatch(), start.source
        rollouts = Rollouts(watch)
        if plan.is_rl:
            engine = rollouts.engine(plan, frozen, start.reference)
            source = sources.make_source(plan, frozen, start.reference, engine)
        step = experiment.jitted_step(plan)
        compiled = Compiled.of(
            step, state, frozen, plan.feed(source.next(state.params, 1).responses)
        )
        found: dict[str, Any] = {
            "compile_seconds": compiled.seconds,
            "trace_seconds": compiled.trace_seconds,
            "step_memory_bytes": compiled.memory,
        }
        rounds, before = [], 0
        with progress("Measuring", (WARMUP + steps) * bool(steps), unit="rounds") as advance:
            for number in range((WARMUP + steps) * bool(steps)):
                if number == WARMUP:
                    before = len(compiling)
                state, taken = _round(plan, source, step, state, frozen, watch, rollouts)
                rounds += [taken] * (number >= WARMUP)
                advance(1)
    found |= {
        "all_compile_seconds": sum(compiling),
        "programs_compiled": len(compiling),
        "programs_compiled_while_timed": len(compiling) - before if rounds else 0,
        "device_peak_bytes": peak_bytes(),
    }
    return found | (_figures(plan, rounds, ceilings) if rounds else {})


def _round(
    plan: Plan,
    source: Source,
    step: Any,
    state: Any,
    frozen: Params,
    watch: Stopwatch,
    rollouts: Rollouts,
) -> tuple[Any, Round]:
    watch.lap()
    rollouts.taken()
    batches, start = [], time.perf_counter()
    for _ in range(rollout_steps(plan.config)):
        with watch.part("source"):
            draw = source.next(state.params, int(state.step) + 1)
        with watch.part("feed"):
            batch = plan.feed(draw.responses)
        with watch.part("update"):
            state, _ = jax.block_until_ready(step(state, frozen, batch))
        batches.append(batch)
    seconds, parts = time.perf_counter() - start, watch.lap()
    prompts, new = rollouts.taken()
    texts = [text for batch in batches for text in texts_of(batch)]
    lengths, skipped = [text.length for text in texts], [text.skipped for text in texts]
    scored = sum(scored_of(batch) for batch in batches)
    return state, Round(
        seconds=seconds,
        parts=parts,
        lengths=lengths,
        used=sum(lengths) - sum(skipped),
        scored=scored,
        places=sum(batch.tokens.size for batch in batches),
        samples=len(lengths),
        new=sum(map(sum, new)),
        flops=_flops(plan, texts, scored, prompts, new),
    )


class Text(NamedTuple):
    """Tokens of a text, and those of them, its first, that another text has for it."""

    length: int
    skipped: int


def texts_of(batch: AnyBatch) -> list[Text]:
    """The texts of a batch."""
    found = []
    for segments, positions in zip(np.asarray(batch.segments), np.asarray(batch.positions)):
        order = np.lexsort((positions.ravel(), segments.ravel()))
        ids, places = segments.ravel()[order], positions.ravel()[order]
        firsts = np.flatnonzero(np.diff(ids, prepend=0))
        for first, end in zip(firsts, [*firsts[1:], len(ids)]):
            found.append(Text(int(places[end - 1]) + 1, int(places[first])))
    return found


def scored_of(batch: AnyBatch) -> int:
    """Tokens whose log-probabilities a batch asks for."""
    is_response = getattr(batch, "is_response", None)
    return 0 if is_response is None else int(np.asarray(is_response).sum())


def _flops(
    plan: Plan,
    texts: Sequence[Text],
    scored: int,
    prompts: Sequence[int],
    new: Sequence[Sequence[int]],
) -> int | None:
    a, config = plan.origin.architecture, plan.config
    if not isinstance(a, qwen2.Architecture):
        return None
    lengths, skipped = [text.length for text in texts], [text.skipped for text in texts]
    how: dict[str, Any] = dict(skipped=skipped, scored=scored)
    total = flops.train(a, lengths, has_adapters=config["lora"] is not None, **how)
    has_reference = needs_reference(config) and not config["cache_reference"]
    total += (has_reference + plan.rescores) * flops.forward(a, lengths, **how)
    return total + (flops.generation(a, prompts, new) if plan.is_rl else 0)


def _figures(plan: Plan, rounds: Sequence[Round], ceilings: Ceilings) -> dict[str, Any]:
    """Rates: those of the median round, and what all rounds together wasted."""
    steps = rollout_steps(plan.config)
    rate = lambda count: float(np.median([count(one) / one.seconds for one in rounds]))
    seconds = Seconds.of([one.seconds / steps for one in rounds])
    names = list(dict.fromkeys(name for one in rounds for name in one.parts))
    parts = {name: float(np.median([one.parts.get(name, 0.0) for one in rounds])) for name in names}
    shares = [one.parts.get("generation", 0.0) / one.seconds for one in rounds]
    places = sum(one.places for one in rounds)
    found: dict[str, Any] = {
        "step_seconds": seconds.median,
        "step_seconds_least": seconds.least,
        "step_seconds_most": seconds.most,
        "part_seconds": {name: value / steps for name, value in parts.items()},
        "tokens_per_second": rate(lambda one: sum(one.lengths)),
        "loss_tokens_per_second": rate(lambda one: one.scored),
        "samples_per_second": rate(lambda one: one.samples),
        "padding_waste": 1 - sum(one.used for one in rounds) / places,
    }
    if rounds[0].flops is not None:
        found["model_flops_per_second"] = rate(lambda one: one.flops)
        peak = ceilings.flops(plan.base.compute.dtype) * plan.mesh.size
        found["model_flops_utilisation"] = found["model_flops_per_second"] / peak
    if plan.is_rl:
        found["new_tokens_per_second"] = rate(lambda one: one.new)
        found["generation_share"] = float(np.median(shares))
    return found
