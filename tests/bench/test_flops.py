"""The formulas give what was worked out by hand for Qwen2.5-0.5B."""

import pytest

from rlft_jax.bench import flops
from rlft_jax.bench.flops import QWEN2_5_0_5B

N = 493_961_216  # parameters of its matrices, the head's 136,134,656 among them


@pytest.mark.parametrize(
    ("tokens", "billions"), [(512, 3.030), (1024, 3.096), (2048, 3.228), (4096, 3.492)]
)
def test_training_takes_so_many_flops_a_token(tokens, billions):
    assert flops.train(QWEN2_5_0_5B, [tokens]) / tokens / 1e9 == pytest.approx(billions, abs=5e-4)


def test_reading_takes_two_flops_a_parameter_and_attention_grows_with_the_text():
    assert flops.forward(QWEN2_5_0_5B, [1]) == 2 * N + 43_008
    assert flops.forward(QWEN2_5_0_5B, [1000]) == 1000 * (2 * N + 43_008 * 1000)


def test_packed_texts_do_not_attend_to_each_other():
    apart = flops.forward(QWEN2_5_0_5B, [512, 512])
    assert apart == 2 * flops.forward(QWEN2_5_0_5B, [512])
    assert flops.forward(QWEN2_5_0_5B, [1024]) - apart == 43_008 * (1024**2 - 2 * 512**2)


def test_what_another_text_reads_for_it_is_left_out():
    both = flops.forward(QWEN2_5_0_5B, [512, 300], skipped=[0, 100])
    saved = flops.forward(QWEN2_5_0_5B, [512, 300]) - both
    assert saved == flops.forward(QWEN2_5_0_5B, [100])


def test_without_the_head_a_quarter_is_left_out():
    whole = flops.train(QWEN2_5_0_5B, [1024])
    body = flops.train(QWEN2_5_0_5B, [1024], scored=0)
    assert body / 1024 / 1e9 == pytest.approx(2.279, abs=5e-4)
    assert (whole - body) == 6 * 136_134_656 * 1024


def test_adapters_save_the_gradients_of_what_is_frozen():
    whole = flops.train(QWEN2_5_0_5B, [64])
    assert flops.train(QWEN2_5_0_5B, [64], has_adapters=True) * 3 == whole * 2


def test_every_token_written_reads_all_that_came_before():
    # The last of ten, after a prompt of 501, sees 511 tokens and itself.
    ten, nine = (flops.generation(QWEN2_5_0_5B, [502], [[count]]) for count in (10, 9))
    assert ten - nine == 2 * N + 4 * 24 * 14 * 64 * 512
    shared = flops.generation(QWEN2_5_0_5B, [100], [[5, 5]])
    alone = flops.generation(QWEN2_5_0_5B, [100, 100], [[5], [5]])
    assert alone - shared == flops.forward(QWEN2_5_0_5B, [100], scored=0)


@pytest.mark.parametrize(
    ("rows", "cache_dtype", "gigabytes"),
    [
        (1, None, 0.994),
        (64, None, 1.391),
        (256, None, 2.599),
        (1024, None, 7.430),
        (1024, "int8", 4.410),
    ],
)
def test_a_decode_step_reads_weights_once_and_the_cache_of_every_row(rows, cache_dtype, gigabytes):
    moved = flops.decode_bytes(
        QWEN2_5_0_5B, rows=rows, context=512, width=2, cache_dtype=cache_dtype
    )
    assert moved / 1e9 == pytest.approx(gigabytes, abs=5e-4)
