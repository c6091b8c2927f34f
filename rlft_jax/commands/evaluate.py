"""`rlft evaluate`: how often a model solves the problems of a task."""

from typing import Any

from rlft_jax import evaluate as evaluation
from rlft_jax import progress
from rlft_jax.commands import BY_TASK
from rlft_jax.commands.data_sets import check_limit, made_of, read_named, refuse_without_effect
from rlft_jax.commands.outputs import outputs
from rlft_jax.commands.policies import (
    check_samples,
    check_seed,
    encode_problems,
    template_of,
)
from rlft_jax.evaluate import with_interval
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.runs.inference import load_replicas, sample_from
from rlft_jax.runs.learned_rewards import reward_of
from rlft_jax.runs.loading import find
from rlft_jax.runs.scoring import plan_scorer
from rlft_jax.sampling.cache import CacheDtype
from rlft_jax.sampling.settings import QUEUE, SamplingSettings
from rlft_jax.tasks import TASKS, countdown
from rlft_jax.tasks.problem import Problem, lookup

# Problems made where there is no file of them; no config trains with this seed.
MADE, MADE_SEED = 200, 20_260_000


def evaluate(
    *,
    model: str,
    task: str = "countdown",
    data: str | None = None,
    split: str = "test",
    subset: str | None = None,
    limit: int | None = None,
    template: str | None = None,
    samples: int = 16,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 20,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 1024,
    stop_strings: tuple[str, ...] = (),
    scorer: str = "strict",
    seed: int = 0,
    batch_rows: int = 256,
    dtype: Dtype = "float32",
    cache_dtype: CacheDtype | None = None,
    out: str | None = None,
    completions: str | None = None,
    reward_model: str | None = None,
) -> None:
    """Measures a model on a task: pass@k, best-of-N, majority, with intervals.

    Prints tables, and writes all figures with the spec of how they were measured if asked to.

    Args:
        model: Hugging Face folder, hub name or run directory.
        task: countdown or gsm8k. For preferences, see `rlft help evaluate --task=preferences`.
        data: File (.jsonl, .jsonl.gz, .parquet), folder or hub name of problems. Countdown
            makes 200 problems of its own where there is none, always the same.
        split: Which split of a folder or hub data set, or a slice such as "test[:100]". A file
            has one split, whatever its name, which can be sliced too.
        subset: Which configuration of a hub data set, where it has several.
        limit: Take the first problems only.
        template: How to pose the problems: tinyzero, chat or plain for countdown, chat or plain
            for gsm8k. Left out, it is the one that a run directory was trained with, or else
            the task's first.
        samples: Completions of each problem.
        temperature: 0 takes the likeliest token each time, and switches top_p and top_k off.
        top_p: Sample among the likeliest tokens that together have this probability.
        top_k: Sample among the k likeliest tokens; 0 for all.
        min_p: Sample among tokens at least this share as likely as the likeliest.
        repetition_penalty: Above 1, makes tokens that occurred less likely.
        max_new_tokens: The most tokens of a completion.
        stop_strings: Texts that end a completion, besides the model's own stop tokens.
        scorer: What the mean score is the mean of: strict, or for countdown compat, TinyZero's.
            Whether an answer is correct is always judged strictly.
        seed: Of the sampling and of the intervals.
        batch_rows: Completions to sample at once, on all devices together; changes memory and
            speed only.
        dtype: What to compute in.
        cache_dtype: What keys and values are kept in: as computed if left out; int8 takes about
            half of bfloat16's memory; the README tells at what cost.
        out: The .json file to write.
        completions: A .jsonl file to write all completions to, with their grades.
        reward_model: Choose the best of n by this model as well: Hugging Face folder, hub name or
            run directory.
    """
    check_task(task, scorer, template)
    check_seed(seed)
    check_samples(samples, temperature=temperature)
    settings = SamplingSettings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k if temperature else 0,
        top_p=top_p if temperature else 1.0,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop_strings=stop_strings,
        batch_rows=batch_rows,
        cache_dtype=cache_dtype,
    )
    origin = find(model)
    template = template or template_of(origin, task)
    problems, source = read_problems(
        task, data, split=split, subset=subset, limit=limit, template=template
    )
    prompts = encode_problems(problems, origin, max_new_tokens=max_new_tokens)
    compute = Compute(dtype=dtype)
    judge = None
    if reward_model is not None:
        judge = plan_scorer(reward_model, compute=compute, rows=batch_rows)
    spec = {
        "model": model,
        "reward_model": reward_model,
        "data": source,
        "template": template,
        "temperature": temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "max_new_tokens": max_new_tokens,
        "stop_strings": list(stop_strings),
        "dtype": dtype,
        "cache_dtype": cache_dtype,
    }
    with outputs(out, completions) as files:
        replicas = load_replicas(origin, compute)
        result = evaluation.evaluate(
            problems,
            task=task,
            sample=sample_from(replicas, prompts, settings, samples=samples, seed=seed),
            decode=lambda ids: origin.tokenizer.decode(ids, skip_special_tokens=True),
            samples=samples,
            scorer=scorer,
            seed=seed,
            spec=spec,
            chunk=max(QUEUE * batch_rows // samples, 1),
            record=files.record,
            reward=None if judge is None else reward_of("reward_model", judge, judge.load()),
        )
        files.finish(result)
    show(result)


def check_task(task: str, scorer: str, template: str | None) -> None:
    """Refuses names that a task does not have."""
    grader = lookup("task", task, {**TASKS, **BY_TASK["evaluate"]})
    lookup(f"{task} scorer", scorer, grader.SCORERS)
    if template is not None:
        lookup(f"{task} template", template, grader.TEMPLATES)


def read_problems(
    task: str,
    data: str | None,
    *,
    split: str = "test",
    subset: str | None = None,
    limit: int | None,
    template: str,
) -> tuple[list[Problem], str]:
    """Returns the problems to solve, and where they are from."""
    poser = TASKS[task]
    check_limit(limit)
    if data is not None:
        rows, source = read_named(data, split=split, subset=subset, limit=limit)
    elif task == "countdown":
        of_data = {"split": None if split == "test" else split, "subset": subset}
        refuse_without_effect(of_data, "without --data")
        count = limit or MADE
        rows = countdown.generate(seed=MADE_SEED, count=count, unique=True)
        source = f"made with seed {MADE_SEED}"
    else:
        raise ValueError(f"There are no problems: --task={task} makes none. Set --data=FILE.jsonl.")
    posed = made_of(rows, lambda row: poser.problem(row, template=template), data=source)
    return posed, source


def show(result: evaluation.Result) -> None:
    """Prints the figures of an evaluation, and what was measured."""
    spec, best = result["spec"], result["best_of_n"]
    ways = [way for way in best if way != "verifier"]
    progress.table(
        f"{spec['task']}: {spec['model']}",
        ["k or n", "pass@k", *(f"best of n: {way.replace('_', ' ')}" for way in ways)],
        [
            [n, *(with_interval(best[way][n]) for way in ["verifier", *ways])]
            for n in result["pass_at_k"]
        ],
        caption="pass@k is also best of k by the verifier.",
    )
    sizes = list(result["pass_at_k"])[:: max(len(result["pass_at_k"]) - 1, 1)]
    progress.table(
        "Kinds of problems",
        ["", "problems", *(f"pass@{k}" for k in sizes)],
        [
            [name, str(group["problems"]), *(with_interval(group["pass_at_k"][k]) for k in sizes)]
            for name, group in result["groups"].items()
        ],
    )
    named = {
        "mean score (not an accuracy)": with_interval(result["mean_score"]),
        "answers that could not be read": with_interval(result["parse_failures"]),
        "truncated": with_interval(result["truncated"]),
        "tokens of a completion": with_interval(result["mean_length"], digits=1),
    }
    progress.table("Completions", ["", "mean"], list(map(list, named.items())), caption=said(spec))


def said(spec: dict[str, Any]) -> str:
    """What was measured, in a sentence or two."""
    return (
        f"{spec['problems']} problems ({spec['data']}) x {spec['samples']} samples, template"
        f" {spec['template']}, temperature {spec['temperature']:g}, top-p {spec['top_p']:g}, top-k"
        f" {spec['top_k']}, at most {spec['max_new_tokens']:,} tokens, scorer {spec['scorer']},"
        f" seed {spec['seed']}. In brackets: {spec['intervals']}."
    )
