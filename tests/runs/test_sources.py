"""How rollouts are made by a run's config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.config.schema import resolved
from rlft_jax.runs import weights
from rlft_jax.runs.plan import make_plan
from rlft_jax.runs.sources import make_engine


@pytest.fixture
def made(tiny):
    """An engine and parameters."""

    def make(**changes):
        plan = make_plan(resolved(tiny.rloo(**changes)))
        frozen = weights.load_frozen(plan)
        reference = weights.load_reference(plan, frozen)
        return make_engine(plan, frozen, reference), weights.load_state(plan).params

    return make


PROMPTS = [[5, 9, 4], [7], [3, 3, 8, 2]]


@pytest.mark.parametrize("adapters", [{}, {"lora__rank": 2}])
def test_rollouts_in_half_precision_leave_the_masters_what_they_are(made, adapters):
    half, params = made(sampling__dtype="bfloat16", **adapters)
    whole, _ = made(**adapters)
    found = [half_or_whole.sample(params, PROMPTS, 4, [0, 1, 2]) for half_or_whole in (half, whole)]
    differences = []
    for groups in zip(*found, strict=True):
        for a, b in zip(*groups, strict=True):
            same = np.cumprod(a.tokens[: len(b.tokens)] == b.tokens[: len(a.tokens)]).sum()
            assert a.logprobs.dtype == np.float32
            differences.extend(np.abs(a.logprobs[:same] - b.logprobs[:same]))
    # Few tokens part, and none of those before is scored quite alike.
    assert len(differences) > 0.7 * 12 * 12
    assert 1e-5 < np.mean(differences) < 0.02
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("changes", "is_scored"),
    [
        ({}, False),
        ({"rollout__updates": 2}, True),
        ({"rollout__updates": 2, "sampling__rescore": False}, False),
        ({"advantages__kl_weight": 0.1}, False),
        ({"advantages__kl_weight": 0.1, "sampling__rescore": True}, True),
        (
            {
                "advantages__kl_weight": 0.1,
                "rollout__overlap": True,
                "objective__importance_cap": 2.0,
            },
            True,
        ),
        ({"advantages__kl_weight": 0.1, "sampling__dtype": "bfloat16"}, True),
        ({"advantages__kl_weight": 0.1, "sampling__cache_dtype": "int8"}, True),
        ({"advantages__kl_weight": 0.1, "model__dtype": "bfloat16"}, True),
    ],
)
def test_the_trainer_scores_what_it_compares_with_where_the_sampler_rounds_otherwise(
    made, changes, is_scored
):
    assert (made(**changes)[0].old_score is not None) == is_scored
