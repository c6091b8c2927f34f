"""`rlft evaluate --task=ifeval`: how many of the instructions in a prompt a model follows."""

from typing import Literal

from rlft_jax.commands.data_sets import check_limit, made_of, read_named
from rlft_jax.commands.generate import complete
from rlft_jax.commands.outputs import outputs
from rlft_jax.commands.policies import check_seed, encode_problems
from rlft_jax.judges import ifeval as figures
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.runs.inference import load_replicas
from rlft_jax.runs.loading import find
from rlft_jax.sampling.cache import CacheDtype
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.tasks import ifeval


def evaluate_ifeval(
    *,
    task: Literal["ifeval"],
    model: str,
    data: str,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    template: Literal["chat", "plain"] = "chat",
    temperature: float = 0.0,
    max_new_tokens: int = 1280,
    seed: int = 0,
    batch_rows: int = 64,
    dtype: Dtype = "float32",
    cache_dtype: CacheDtype | None = None,
    out: str | None = None,
    completions: str | None = None,
) -> None:
    """Measures how many verifiable instructions a model follows (IFEval, arXiv:2311.07911).

    One answer to each prompt. The four usual figures are printed: by prompt and by instruction,
    strict and loose, with intervals over prompts.

    Args:
        task: This one.
        model: Hugging Face folder, hub name or run directory.
        data: File (.jsonl, .jsonl.gz, .parquet), folder or hub name of IFEval's rows, such as
            google/IFEval: `prompt`, `instruction_id_list` and `kwargs`.
        split: Which split of a folder or hub data set, or a slice such as "train[:100]". A file
            has one split, whatever its name, which can be sliced too.
        subset: Which configuration of a hub data set, where it has several.
        limit: Take the first prompts only.
        template: Whether a prompt is the turn of a chat, or plain text to continue.
        temperature: 0 takes the likeliest token each time, as is usual here.
        max_new_tokens: The most tokens of an answer.
        seed: Of the sampling and of the intervals.
        batch_rows: Answers to sample at once; changes memory and speed only.
        dtype: What to compute in.
        cache_dtype: What keys and values are kept in: as computed if left out; int8 takes about
            half of bfloat16's memory; the README tells at what cost.
        out: The .json file to write.
        completions: A .jsonl file to write all answers to.
    """
    check_limit(limit)
    check_seed(seed)
    settings = SamplingSettings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        batch_rows=batch_rows,
        cache_dtype=cache_dtype,
    )
    origin = find(model)
    rows, name = read_named(data, split=split, subset=subset, limit=limit)
    problems = made_of(rows, lambda row: ifeval.problem(row, template=template), data=name)
    prompts = encode_problems(problems, origin, max_new_tokens=max_new_tokens)
    spec = {
        "model": model,
        "data": name,
        "template": template,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype,
        "cache_dtype": cache_dtype,
    }
    with outputs(out, completions) as files:
        replicas = load_replicas(origin, Compute(dtype=dtype))
        found = complete(replicas, prompts, settings, seed=seed)
        texts = [origin.tokenizer.decode(c.tokens, skip_special_tokens=True) for c in found]
        result = figures.evaluate(problems, texts, seed=seed, spec=spec)
        for row, text in zip(rows, texts, strict=True):
            files.record({**row, "completion": text})
        files.finish(result)
    figures.show(result)
