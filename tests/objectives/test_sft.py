"""Imitation counts every token of an optimiser step alike, however the step is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.objectives import sft
from tests import tiny

RESPONSES = tiny.responses(group=1, scored=False)
POLICY = tiny.policy()
WHOLE = tiny.gradient(POLICY, sft.objective, tiny.batch_of(RESPONSES))


def test_the_loss_is_the_mean_over_tokens():
    loss = WHOLE[1]["loss"]
    assert loss.weight == RESPONSES.is_response.sum()
    logp = jax.nn.log_softmax(
        POLICY.model.unembed(POLICY.model.hidden(jnp.asarray(RESPONSES.tokens[:, 0])))
    )
    given = np.take_along_axis(np.asarray(logp)[:, :-1], RESPONSES.tokens[:, 0, 1:, None], -1)
    expected = -given[..., 0][RESPONSES.is_response[:, 0, 1:]].mean()
    np.testing.assert_allclose(loss.value, expected, rtol=1e-6)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_change_nothing(micro_batches):
    batch = tiny.batch_of(RESPONSES, micro_batches=micro_batches)
    tokens = batch.is_response.sum((1, 2))
    assert tokens.min() < tokens.max()
    gradient, metrics = tiny.gradient(POLICY, sft.objective, batch)
    assert tiny.distance(gradient, WHOLE[0]) < 1e-6
    for name, mean in WHOLE[1].items():
        np.testing.assert_allclose(metrics[name].value, mean.value, rtol=1e-6)


def test_packing_changes_nothing():
    batch = tiny.batch_of(RESPONSES, packed=False)
    assert batch.tokens.shape != tiny.batch_of(RESPONSES).tokens.shape
    gradient, metrics = tiny.gradient(POLICY, sft.objective, batch)
    assert tiny.distance(gradient, WHOLE[0]) < 1e-6
    np.testing.assert_allclose(metrics["loss"].value, WHOLE[1]["loss"].value, rtol=1e-6)


def test_prompts_and_padding_are_not_imitated():
    unseen = RESPONSES._replace(is_response=np.zeros_like(RESPONSES.is_response))
    gradient, metrics = tiny.gradient(POLICY, sft.objective, tiny.batch_of(unseen))
    assert metrics["loss"].value == metrics["loss"].weight == 0
    assert all(not x.any() for x in jax.tree.leaves(gradient))
