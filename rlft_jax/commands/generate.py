"""`rlft generate`: completions of the prompts in a file."""

from collections.abc import Sequence

from rlft_jax.commands.policies import check_seed
from rlft_jax.commands.requests import encode_requests, line_of, read_requests
from rlft_jax.files import written_whole
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.progress import progress
from rlft_jax.runs.inference import Replicas, load_replicas, sample_from
from rlft_jax.runs.loading import find
from rlft_jax.sampling.cache import CacheDtype
from rlft_jax.sampling.settings import QUEUE, SamplingSettings
from rlft_jax.sampling.transcripts import Completion


def generate(
    *,
    model: str,
    prompts: str,
    out: str,
    temperature: float = 0.0,
    max_new_tokens: int = 64,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop_strings: tuple[str, ...] = (),
    seed: int = 0,
    batch_rows: int = 64,
    dtype: Dtype = "float32",
    cache_dtype: CacheDtype | None = None,
) -> None:
    """Completes the prompts of a file.

    Each line of the file is {"prompt": text}, continued as it is, or {"messages": [...]}, to
    which the model answers by its chat template. The same lines are written with a "completion"
    (its text, without special tokens) and "token_ids" (all that was generated, the token that
    ended it included), in the same order.

    Args:
        model: Hugging Face folder, hub name or run directory.
        prompts: The .jsonl or .jsonl.gz file of prompts.
        out: The .jsonl file to write; it appears when it is complete.
        temperature: 0 takes the likeliest token each time.
        max_new_tokens: The most tokens of a completion.
        top_k: Sample among the k likeliest tokens; 0 for all.
        top_p: Sample among the likeliest tokens that together have this probability.
        min_p: Sample among tokens at least this share as likely as the likeliest.
        repetition_penalty: Above 1, makes tokens that occurred less likely.
        stop_strings: Texts that end a completion, besides the model's own stop tokens.
        seed: Of the sampling. A line's completion depends on its place, not on other lines.
        batch_rows: Prompts to complete at once, on all devices together; changes memory and
            speed only.
        dtype: What to compute in.
        cache_dtype: What keys and values are kept in: as computed if left out; int8 takes about
            half of bfloat16's memory; the README tells at what cost.
    """
    check_seed(seed)
    requests = read_requests(prompts)
    settings = SamplingSettings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop_strings=stop_strings,
        batch_rows=batch_rows,
        cache_dtype=cache_dtype,
    )
    # All that can be wrong with the requests is known before the weights are loaded.
    origin = find(model)
    encoded = encode_requests(
        prompts,
        requests,
        origin.tokenizer,
        positions=origin.architecture.max_positions,
        following=[max_new_tokens] * len(requests),
    )
    with written_whole(out) as file:
        replicas = load_replicas(origin, Compute(dtype=dtype))
        completions = complete(replicas, encoded, settings, seed=seed)
        for request, completion in zip(requests, completions, strict=True):
            text = origin.tokenizer.decode(completion.tokens, skip_special_tokens=True)
            added = {"completion": text, "token_ids": completion.tokens.tolist()}
            file.write(line_of({**request.row, **added}))


def complete(
    replicas: Replicas, prompts: Sequence[list[int]], settings: SamplingSettings, *, seed: int
) -> list[Completion]:
    """Returns one completion of each prompt, with a bar meanwhile."""
    sample = sample_from(replicas, prompts, settings, seed=seed)
    size = QUEUE * settings.batch_rows
    completions: list[Completion] = []
    with progress("Generating", len(prompts), unit="prompts") as advance:
        for first in range(0, len(prompts), size):
            chunk = prompts[first : first + size]
            completions += [group[0] for group in sample(chunk, first)]
            advance(len(chunk))
    return completions
