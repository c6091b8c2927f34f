"""Completions, as `rlft generate` and evaluations write them."""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlft_jax.bench import flops
from rlft_jax.bench.ceilings import Ceilings
from rlft_jax.bench.compiled import peak_bytes
from rlft_jax.bench.timing import compilations
from rlft_jax.models.qwen2 import Compute
from rlft_jax.progress import progress
from rlft_jax.runs import inference, loading
from rlft_jax.sampling.cache import CacheDtype
from rlft_jax.sampling.settings import SamplingSettings

SIZE = {"float32": 4, "bfloat16": 2}
WARMUP = 1


def measure(
    model: str,
    compute: Compute,
    settings: SamplingSettings,
    ceilings: Ceilings,
    *,
    rows: Sequence[int],
    prompt_tokens: int,
    steps: int,
) -> dict[str, Any]:
    """Times completions of random prompts, for every number of rows that are written at once.

    Reading the prompts counts: a token's time is the whole time over the tokens of a row.

    Args:
        model: The policy.
        compute: How to compute with it.
        settings: How to sample; as many rows are decoded at once as are asked for.
        ceilings: What a device can do.
        rows: How many prompts there are; the first number stands for all in the summary.
        prompt_tokens: Of every prompt.
        steps: Repetitions that count.
    """
    replicas = inference.load_replicas(model, compute)
    origin = replicas.policy.origin
    found: dict[str, Any] = {"by_rows": {}}
    with compilations() as compiling, progress("Measuring", len(rows), unit="sizes") as advance:
        for count in rows:
            how = dataclasses.replace(settings, batch_rows=count)
            prompts = random_prompts(count, prompt_tokens, origin.architecture.vocabulary)
            sample = inference.sample_from(replicas, prompts, how, seed=0)
            laps = [_lap(sample, prompts) for _ in range(WARMUP + steps)][WARMUP:]
            found["by_rows"][str(count)] = _figures(
                origin,
                compute,
                settings.cache_dtype,
                ceilings,
                prompt_tokens,
                laps,
                devices=replicas.mesh.size,
            )
            advance(1)
    found |= found["by_rows"][str(rows[0])]
    return found | {
        "all_compile_seconds": sum(compiling),
        "programs_compiled": len(compiling),
        "device_peak_bytes": peak_bytes(),
    }


def random_prompts(count: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Prompts of ids that are not among the first few, which may be special."""
    rng = np.random.default_rng(0)
    return rng.integers(min(300, vocabulary - 1), vocabulary, (count, tokens)).tolist()


def _lap(sample: inference.Sample, prompts: list[list[int]]) -> tuple[float, list[int]]:
    """Seconds, and the tokens of each completion."""
    start = time.perf_counter()
    groups = sample(prompts, 0)
    seconds = time.perf_counter() - start
    return seconds, [len(group[0].tokens) for group in groups]


def _figures(
    origin: loading.Origin,
    compute: Compute,
    cache_dtype: CacheDtype | None,
    ceilings: Ceilings,
    prompt_tokens: int,
    laps: Sequence[tuple[float, list[int]]],
    *,
    devices: int,
) -> dict[str, float]:
    a, width = origin.architecture, SIZE[compute.dtype]
    seconds = statistics.median(seconds for seconds, _ in laps)
    new = laps[0][1]  # the same in every lap: so is the seed
    longest, rows = max(new), len(new)
    moved = flops.decode_bytes(
        a,
        rows=-(-rows // devices),
        context=prompt_tokens + longest / 2,
        width=width,
        cache_dtype=cache_dtype,
    )
    work = flops.generation(a, [prompt_tokens] * rows, [[count] for count in new])
    peak = ceilings.flops(compute.dtype) * devices
    return {
        "call_seconds": seconds,
        "step_seconds": seconds / longest,
        "new_tokens_per_second": sum(new) / seconds,
        "tokens_per_second": (sum(new) + rows * prompt_tokens) / seconds,
        "samples_per_second": rows / seconds,
        "mean_new_tokens": sum(new) / rows,
        "bytes_per_step": moved,
        "bandwidth_utilisation": moved * longest / seconds / ceilings.bandwidth,
        "model_flops_utilisation": work / seconds / peak,
    }
