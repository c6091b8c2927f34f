"""What is in the compiled programs of the sampler, and what is not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.models.qwen2 import Compute
from rlft_jax.sampling.sampler import Sampler
from rlft_jax.sampling.settings import SamplingSettings
from tests.sampling.tiny import TINY, make


@pytest.fixture(scope="module")
def tiny():
    return make()


def compiled_decode(sampler: Sampler, params: dict, *, rows: int, columns: int):
    """The decode program for so many rows, and the rows."""
    programs = sampler._programs
    prompts = programs.prefill(params, np.ones((2, 16), np.int32), np.full(2, 16, np.int32))
    free = programs.free_rows(prompts, rows=rows, columns=columns)
    return programs.decode.lower(programs.weights(params), free).compile(), free


def made(program: str, *buffers: jax.Array) -> list[tuple[str, str]]:
    """Where in a program something makes an array of the buffers' shapes, and what does."""
    shapes = "|".join({re.escape(",".join(map(str, buffer.shape))) for buffer in buffers})
    found, where = [], ""
    for line in program.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            where = line.split(" ")[0]
        match = re.search(rf"= f32\[(?:{shapes})\]\S* ([\w-]+)\(", line)
        if match:
            found.append((where, match[1]))
    return found


def test_decoding_never_copies_its_cache(tiny):
    sampler = Sampler(tiny[0], SamplingSettings(max_new_tokens=16))
    program, rows = compiled_decode(sampler, tiny[1], rows=15, columns=4096)
    text = program.as_text()
    loops = re.findall(r"body=(%[\w.-]+)", text)
    found = made(text, rows.keys[0], rows.values[0])
    # Steps only read it.
    assert {way for where, way in found if where in loops} == {"get-tuple-element"}
    written = sum(way in ("scatter", "dynamic-update-slice") for _, way in found)
    assert written == 2 * TINY.layers  # after the last one
    held = sum(buffer.nbytes for buffer in (*rows.keys, *rows.values))
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= held  # donated, and reused
    assert memory.temp_size_in_bytes < held / 4


def test_8_bits_are_widened_a_layer_at_a_time(tiny):
    """Of two layers, not both before the first token, nor keys and values at once."""
    settings = SamplingSettings(max_new_tokens=16, cache_dtype="int8")
    program, rows = compiled_decode(Sampler(tiny[0], settings), tiny[1], rows=15, columns=4096)
    widened = sum(4 * x.integers.size for x in (*rows.keys, *rows.values))
    assert program.memory_analysis().temp_size_in_bytes < widened / 2


@pytest.mark.parametrize(("filters", "is_sorted"), [({}, False), ({"top_k": 5}, True)])
def test_only_top_k_looks_for_an_order(tiny, filters, is_sorted):
    settings = SamplingSettings(max_new_tokens=4, temperature=0.7, **filters)
    program, _ = compiled_decode(Sampler(tiny[0], settings), tiny[1], rows=4, columns=32)
    assert bool(re.search(r" sort\(|TopK|top-k", program.as_text())) == is_sorted


def test_weights_are_cast_as_the_model_would_cast_them():
    graph, params = make(Compute(dtype="bfloat16"))
    weights = Sampler(graph, SamplingSettings(max_new_tokens=4))._programs.weights(params)
    types = {
        jax.tree_util.keystr(path[-1:], simple=True): leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
    }
    assert types == {
        "embedding": jnp.bfloat16,
        "words": jnp.uint16,  # the same bits, to look up
        "kernel": jnp.bfloat16,
        "bias": jnp.bfloat16,
        "scale": jnp.float32,
    }
