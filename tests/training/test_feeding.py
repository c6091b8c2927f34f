"""From responses on the host to a batch on the mesh, and scores back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.training import feeding
from rlft_jax.training.feeding import Feed, scorer
from rlft_jax.training.sharding import make_mesh
from tests import tiny
from tests.models import reward_models

RESPONSES = tiny.responses()


@pytest.mark.parametrize("packed", [True, False])
def test_rows_are_dealt_over_data_and_fsdp(packed):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    batch = Feed(mesh, tokens=16, micro_batches=2, packed=packed)(RESPONSES)
    M, R, T = batch.tokens.shape
    assert (M, R % 4) == (2, 0)
    assert batch.tokens.addressable_shards[0].data.shape == (2, R // 4, T)
    assert batch.is_real.sharding.is_fully_replicated
    expected = tiny.batch_of(RESPONSES, micro_batches=2, packed=packed)
    assert (batch.segments > 0).sum() == (expected.segments > 0).sum()
    np.testing.assert_array_equal(batch.rewards, expected.rewards)


def test_fields_that_are_missing_stay_missing():
    batch = Feed(make_mesh(), tokens=16)(tiny.responses(scored=False))
    assert batch.advantages is None
    assert batch.rewards is None


@pytest.mark.parametrize("packed", [True, False])
def test_scores_come_back_to_their_tokens(packed):
    feed = Feed(make_mesh(data=4, fsdp=2), tokens=16, micro_batches=2, packed=packed)
    score = jax.jit(lambda scale, batch: scale * batch.tokens.astype(jnp.float32))
    made = scorer(score, feed)(jnp.asarray(2.0), RESPONSES)
    np.testing.assert_array_equal(made, 2.0 * RESPONSES.tokens)


@pytest.mark.parametrize("packed", [True, False])
def test_starts_go_with_their_rows_to_the_devices_that_need_them(packed, monkeypatch):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert Feed(mesh, tokens=16, packed=packed)(RESPONSES).starts is None
    monkeypatch.setattr(feeding, "tells_starts", lambda mesh: True)
    batch = Feed(mesh, tokens=16, packed=packed)(RESPONSES)
    R, S = batch.tokens.shape[1], 3 if packed else 1  # two and padding, or a response alone
    assert batch.starts.shape == (1, R, S)
    assert batch.starts.addressable_shards[0].data.shape == (1, R // 4, S)


def test_a_response_too_long_is_refused_before_anything_is_placed():
    with pytest.raises(ValueError, match=r"config\.batch\.tokens = 8"):
        Feed(make_mesh(), tokens=8)(RESPONSES)


def test_texts_are_dealt_as_responses_are():
    texts = reward_models.texts()._replace(margins=np.arange(3, dtype=np.float32))
    batch = Feed(make_mesh(data=2, fsdp=2, tensor=2), tokens=32)(texts)
    _, R, T = batch.types.shape
    assert batch.types.addressable_shards[0].data.shape == (1, R // 4, T)
    assert batch.is_real.sharding.is_fully_replicated
    assert (batch.segments > 0).sum() == texts.lengths.sum()
    assert sorted(batch.margins.ravel().tolist()) == [0, 1, 2]
    assert batch.targets is None
