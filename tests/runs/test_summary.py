"""What a run says before its first step."""

import jax
import pytest

from rlft_jax.config.derived import group_size
from rlft_jax.config.schema import resolved
from rlft_jax.runs.plan import make_plan
from rlft_jax.runs.summary import memory_of, summary, unit_of
from rlft_jax.training import memory
from tests.tiny_run import ARCHITECTURE


@pytest.fixture
def planned(tiny):
    return lambda kind, **changes: make_plan(resolved(getattr(tiny, kind)(**changes)))


def parameters(plan) -> int:
    return sum(4 * x.size for x in jax.tree.leaves(plan.base.params))


def test_all_kinds_of_memory_are_told_and_summed(planned):
    plan = planned("rloo", objective__kl_weight=0.1, sampling__batch_rows=16)
    needed, told = memory_of(plan), summary(plan, 0)
    assert needed.keys() == {
        *("trainable parameters", "gradients", "optimizer", "reference", "activations", "head"),
        *("sampler's weights", "cache", "sampler's logits"),
    }
    for kind, size in needed.items():
        assert f"{kind} {memory.readable(size)}" in told
    total = memory.readable(sum(needed.values()))
    assert f"Memory of a device, by estimate: {total} (" in told
    # Eight devices decode two of sixteen rows each.
    vocabulary = plan.policy.architecture.vocabulary
    assert needed["sampler's logits"] == 2 * 2 * vocabulary * 4
    kv = 2 * ARCHITECTURE.layers * ARCHITECTURE.kv_heads * ARCHITECTURE.head_width * 4
    assert needed["cache"] == 2 * 64 * kv
    assert needed["sampler's weights"] == parameters(plan)
    assert parameters(plan) / 8 <= needed["reference"] < parameters(plan)


def test_no_more_rows_are_decoded_than_a_rollout_has(planned):
    few = memory_of(planned("rloo", batch__prompts=8, rollout__responses=2))
    assert (
        few["sampler's logits"]
        == memory_of(
            planned("rloo", batch__prompts=8, rollout__responses=2, sampling__batch_rows=16)
        )["sampler's logits"]
    )


def test_half_precision_halves_what_samples(planned):
    full, half = (memory_of(planned("rloo", model__dtype=d)) for d in ("float32", "bfloat16"))
    for kind in ("sampler's weights", "cache"):
        assert half[kind] == full[kind] / 2
    assert half["optimizer"] == full["optimizer"]
    a, quantised = ARCHITECTURE, memory_of(planned("rloo", sampling__cache_dtype="int8"))
    ratio = (a.head_width + 4) / (4 * a.head_width)  # a scale for the numbers of a head
    assert quantised["cache"] == full["cache"] * ratio


def test_adapters_bring_a_frozen_base_and_imitation_samples_nothing(planned):
    plan = planned("sft", lora__rank=2, data__holdout=4)
    needed = memory_of(plan)
    assert needed.keys() == {
        *("trainable parameters", "gradients", "optimizer", "frozen base", "activations", "head"),
    }
    assert needed["trainable parameters"] < parameters(plan) / 16  # a copy on each device
    assert parameters(plan) / 8 <= needed["frozen base"] < parameters(plan)
    assert "Data: 60 examples kept, 0 of them cut; 4 held out." in summary(plan, 0)


def test_steps_that_are_left_are_told(planned):
    plan = planned("sft")
    assert summary(plan, 0).startswith("Training for 6 steps on 8 device(s): data 1, fsdp 8")
    assert summary(plan, 4).startswith("Going on after step 4 for 2 steps on 8 device(s)")


def test_what_is_counted_follows_the_kind_of_run(tiny):
    config = resolved(tiny.rloo(rollout__responses=4))
    assert (unit_of(config), group_size(config)) == ("problems", 4)
    config = resolved(tiny.sft())
    assert (unit_of(config), group_size(config)) == ("examples", 1)
    pairs = dict(data=dict(path="pairs"), objective=dict(name="dpo"))
    assert group_size(resolved(tiny.sft(**pairs))) == 2


def test_it_is_told_how_tokens_attend_and_what_cannot_run_here_is_refused(planned):
    assert "Attention over 64 tokens in float32: xla." in summary(planned("sft"), 0)
    chosen = summary(planned("sft", model__attention="blockwise"), 0)
    assert "Attention over 64 tokens in float32: blockwise." in chosen
    with pytest.raises(ValueError, match=r"model\.attention = 'cudnn' needs a GPU"):
        planned("sft", model__attention="cudnn")
