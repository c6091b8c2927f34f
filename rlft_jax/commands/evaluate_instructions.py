"""`rlft evaluate --task=instructions`: which of two models answers better, by a judge."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rlft_jax.commands.data_sets import check_limit, made_of, read_named
from rlft_jax.commands.generate import complete
from rlft_jax.commands.outputs import outputs
from rlft_jax.commands.policies import check_seed, encode_problems
from rlft_jax.data import row_forms
from rlft_jax.data.bad_rows import map_rows
from rlft_jax.data.mixtures import DatasetSpec
from rlft_jax.data.reward_rows import answered_of
from rlft_jax.judges import pairwise, report
from rlft_jax.judges.answers import Answers
from rlft_jax.judges.endpoint import Chat, Endpoint
from rlft_jax.judges.pairwise import Pair
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.progress import progress
from rlft_jax.runs.inference import load_replicas
from rlft_jax.runs.loading import find
from rlft_jax.runs.scoring import Scorer, plan_scorer
from rlft_jax.sampling.cache import CacheDtype
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.tasks.problem import Problem, Row

# The opponent that the data itself brings.
REFERENCE = "reference"
# Columns in which data sets keep an answer to the prompt.
ANSWERS = ("completion", "output", "reference", "answer", "response")


def evaluate_instructions(
    *,
    task: Literal["instructions"],
    model: str,
    opponent: str,
    data: str,
    judge: str,
    judge_url: str | None = None,
    judge_key_variable: str | None = None,
    judge_answers: str | None = None,
    judge_concurrency: int | None = None,
    split: str = "test",
    subset: str | None = None,
    limit: int | None = None,
    template: Literal["chat", "plain"] = "chat",
    turns: row_forms.Turns = "first",
    temperature: float = 0.2,
    top_p: float = 0.9,
    top_k: int = 0,
    repetition_penalty: float = 1.1,
    max_new_tokens: int = 512,
    seed: int = 0,
    batch_rows: int = 64,
    dtype: Dtype = "float32",
    cache_dtype: CacheDtype | None = None,
    out: str | None = None,
    completions: str | None = None,
) -> None:
    """Measures how often a model answers better than an opponent, as a judge sees it.

    Both answer every prompt once, sampled alike; the defaults are those of arXiv:2506.21560. Ties
    count half. The win rate at equal length stands beside the win rate, because judges like long
    answers. Prints a table, and writes all figures with the spec of how they were measured if
    asked to.

    Args:
        task: This one.
        model: Hugging Face folder, hub name or run directory.
        opponent: Another one; a .jsonl file with a "completion" to each prompt, in the order of
            the data; or "reference", for the answers that the data brings.
        data: File (.jsonl, .jsonl.gz, .parquet), folder or hub name of rows with `prompt`,
            `messages` or `instruction`.
        judge: A reward model: Hugging Face folder, hub name or run directory. With --judge_url,
            the name of the model there.
        judge_url: Address of an OpenAI-compatible chat endpoint, as http://localhost:8000/v1. It
            is asked about every pair in both orders.
        judge_key_variable: Name of the environment variable that holds its key.
        judge_answers: A .jsonl file that keeps its answers, so that none is paid for twice.
        judge_concurrency: Questions to ask it at the same time; 8 if left out.
        split: Which split of a folder or hub data set, or a slice such as "test[:100]". A file
            has one split, whatever its name, which can be sliced too.
        subset: Which configuration of a hub data set, where it has several.
        limit: Take the first prompts only.
        template: Whether text prompts become the turn of a chat, or stay plain.
        turns: Whether chats are answered at their end, or after their first question.
        temperature: 0 takes the likeliest token each time, and switches top_p and top_k off.
        top_p: Sample among the likeliest tokens that together have this probability.
        top_k: Sample among the k likeliest tokens; 0 for all.
        repetition_penalty: Above 1, makes tokens that occurred less likely.
        max_new_tokens: The most tokens of an answer.
        seed: Of the sampling and of the intervals.
        batch_rows: Answers to sample at once; changes memory and speed only.
        dtype: What to compute in.
        cache_dtype: What keys and values are kept in: as computed if left out; int8 takes about
            half of bfloat16's memory; the README tells at what cost.
        out: The .json file to write.
        completions: A .jsonl file to write all answers to, with what was said of them.
    """
    check_limit(limit)
    check_seed(seed)
    if judge_url is None and (judge_key_variable or judge_answers or judge_concurrency):
        raise ValueError(
            "--judge_key_variable, --judge_answers and --judge_concurrency have no effect without"
            " --judge_url."
        )
    settings = SamplingSettings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k if temperature else 0,
        top_p=top_p if temperature else 1.0,
        repetition_penalty=repetition_penalty,
        batch_rows=batch_rows,
        cache_dtype=cache_dtype,
    )
    rows, name = read_named(data, split=split, subset=subset, limit=limit)
    posed = DatasetSpec(path=data, template=None if template == "plain" else template, turns=turns)
    problems = made_of(rows, posed.problem, data=name)
    theirs = given_completions(opponent, rows)
    # All that can be wrong is known before any weight is read.
    chat = scorer = None
    if judge_url is None:
        scorer = plan_scorer(judge, rows=batch_rows, compute=Compute(dtype=dtype))
    else:
        chat = Chat(Endpoint(judge_url, judge, judge_key_variable))
    spec = {
        "model": model,
        "opponent": opponent,
        "judge": judge,
        "data": name,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "repetition_penalty": settings.repetition_penalty,
        "max_new_tokens": settings.max_new_tokens,
        "dtype": dtype,
        "cache_dtype": cache_dtype,
    }
    with outputs(out, completions) as files:
        ours = answered(model, problems, settings, seed=seed, dtype=dtype)
        if theirs is None:
            theirs = answered(opponent, problems, settings, seed=seed, dtype=dtype)
        pairs = [Pair(p.prompt, *both) for p, *both in zip(problems, ours, theirs, strict=True)]
        if scorer is not None:
            result, said = by_reward_model(pairs, scorer, seed=seed, spec=spec)
        else:
            assert chat is not None
            with contextlib.closing(Answers(judge_answers)) as answers:
                judged = pairwise.judge(pairs, chat, answers, concurrency=judge_concurrency or 8)
            result = report.by_endpoint(pairs, judged, seed=seed, spec=spec)
            said = [one._asdict() for one in judged]
        for pair, words in zip(pairs, said, strict=True):
            files.record({**pair._asdict(), **words})
        files.finish(result)
    report.show(result)


def given_completions(opponent: str, rows: Sequence[Row]) -> list[str] | None:
    """The completions of an opponent that wrote them before; None of a model.

    Raises:
        ValueError: If there are none, or not as many as prompts.
    """
    if opponent == REFERENCE:
        return map_rows(reference, rows)
    if not opponent.endswith((".jsonl", ".jsonl.gz")):
        return None
    said = DatasetSpec(path=opponent, setting="--opponent").read()
    if len(said) != len(rows):
        raise ValueError(
            f"--opponent={opponent} has {len(said)} completions for {len(rows)} prompts. Give one"
            " to each, in the same order."
        )
    return map_rows(reference, said)


def reference(row: Row) -> str:
    """The answer in a row.

    Raises:
        ValueError: If there is none.
    """
    for column in ANSWERS:
        if isinstance(row.get(column), str):
            return row[column]
    if isinstance(row.get("messages"), list):
        _, turns = answered_of(row)
        return turns if isinstance(turns, str) else str(turns[-1]["content"])
    raise ValueError(
        f"It has no answer: its columns are {', '.join(row)}. Needed is one of"
        f" {', '.join(ANSWERS)}."
    )


def answered(
    model: str,
    problems: Sequence[Problem],
    settings: SamplingSettings,
    *,
    seed: int,
    dtype: Dtype,
) -> list[str]:
    """One completion of each prompt by a model."""
    origin = find(model)
    prompts = encode_problems(problems, origin, max_new_tokens=settings.max_new_tokens)
    replicas = load_replicas(origin, Compute(dtype=dtype))
    found = complete(replicas, prompts, settings, seed=seed)
    return [origin.tokenizer.decode(c.tokens, skip_special_tokens=True) for c in found]


def by_reward_model(
    pairs: Sequence[Pair], scorer: Scorer, *, seed: int, spec: Mapping[str, Any]
) -> tuple[report.Result, list[dict[str, Any]]]:
    """Figures by a reward model, and the scores of every pair."""
    both = [(pair.prompt, text) for pair in pairs for text in (pair.completion, pair.opponent)]
    texts = scorer.formatter.texts(both)
    with progress("Scoring", len(texts), unit="completions") as advance:
        scores = scorer.scores(scorer.load())(texts, advance).reshape(-1, 2).astype(np.float64)
    result = report.by_reward_model(pairs, scores[:, 0], scores[:, 1], seed=seed, spec=spec)
    return result, [{"score": float(a), "opponent_score": float(b)} for a, b in scores]
