"""Qwen2 with a scalar head: scores and gradients equal those of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reward_checks
from tests.models.reward_models import QWEN2, QWEN2S, laid, random_params, scores, texts


@pytest.mark.oracle
@pytest.mark.parametrize("architecture", QWEN2S.values(), ids=QWEN2S)
def test_scores_and_gradients_equal_those_of_transformers(architecture, tmp_path):
    pytest.importorskip("torch")
    reward_checks.assert_equals_transformers(architecture, tmp_path)


@pytest.mark.oracle
def test_what_transformers_writes_comes_in(tmp_path):
    pytest.importorskip("torch")
    reward_checks.assert_loads_what_transformers_writes(QWEN2, tmp_path)


def test_packing_changes_nothing():
    reward_checks.assert_packing_changes_nothing(QWEN2)


def test_no_text_sees_another():
    reward_checks.assert_no_text_sees_another(QWEN2)


def test_a_mesh_changes_nothing():
    reward_checks.assert_a_mesh_changes_nothing(QWEN2, (2, 2, 2))


def test_the_last_token_is_read_even_if_it_is_the_padding_token():
    params, data = random_params(QWEN2), texts(QWEN2)
    batch = laid(data, packed=False)
    is_last = (batch.segments > 0) & (batch.positions == data.lengths.ravel()[:, None] - 1)
    ends_in_padding = batch._replace(tokens=jnp.where(is_last, 0, batch.tokens))
    before, after = (scores(QWEN2, params, b) for b in (batch, ends_in_padding))
    assert (np.abs(after - before) > 1e-4).all()
