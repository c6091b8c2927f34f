"""Facts about what is measured while a run trains."""

import numpy as np
import pytest

from rlft_jax.config.schema import resolved
from rlft_jax.runs import held_out, sources, weights
from rlft_jax.runs.plan import make_plan
from rlft_jax.training.report import numbers

HELD_OUT = dict(data__holdout=8, every__evaluate=1, evaluation__max_new_tokens=8)


@pytest.fixture
def responses(tiny, monkeypatch):
    """Measures a fresh policy; returns what was found, and the settings of the sampler."""

    def responses(**changes):
        used = []

        def sampler(plan, frozen, settings):
            used.append(settings)
            return sources.policy_sampler(plan, frozen, settings)

        monkeypatch.setattr(held_out, "policy_sampler", sampler)
        plan = make_plan(resolved(tiny.rloo(**{**HELD_OUT, **changes})))
        params = weights.load_state(plan).params
        found = held_out.responses(plan, {}, plan.data.heldout)(params)
        return numbers(found), *used

    return responses


def test_held_out_problems_are_answered_as_rollouts_are(responses):
    endless, _ = responses()
    assert endless["eval_mean_length"] > 4
    letters = tuple("abcdefghijklmnopqrstuvwxyz0123456789=+-*/(), ")
    stopped, settings = responses(
        sampling__stop_strings=letters, sampling__batch_rows=4, sampling__cache_dtype="int8"
    )
    assert settings.stop_strings == letters
    assert (settings.batch_rows, settings.cache_dtype) == (4, "int8")
    assert settings.max_new_tokens == 8
    assert stopped["eval_mean_length"] < 0.75 * endless["eval_mean_length"]
    assert stopped["eval_truncated"] < endless["eval_truncated"]
    assert np.isfinite([*stopped.values()]).all()
