"""DeBERTa's scores and gradients equal those of transformers, padded and packed."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.models.deberta import Architecture, embedded_distances, skew
from tests.models import reward_checks
from tests.models.reward_models import (
    DEBERTA_V3,
    DEBERTAS,
    cotangent,
    exported,
    laid,
    random_params,
    scores,
    scores_and_gradients,
    texts,
)

CONVOLVED = dataclasses.replace(DEBERTAS["v2"], conv_width=3)


@pytest.mark.oracle
@pytest.mark.parametrize("architecture", DEBERTAS.values(), ids=DEBERTAS)
def test_scores_and_gradients_equal_those_of_transformers(architecture, tmp_path):
    pytest.importorskip("torch")
    reward_checks.assert_equals_transformers(architecture, tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("buckets", [0, 16])
def test_texts_far_longer_than_distances_are_told_apart_equal_those_of_transformers(
    buckets, tmp_path
):
    pytest.importorskip("torch")
    from tests.models.torch_rewards import reference

    architecture = dataclasses.replace(DEBERTA_V3, buckets=buckets, max_distance=40)
    data = texts(architecture, ((150, 70), (41, 2)))
    params = exported(tmp_path, architecture)
    theirs = reference(tmp_path, data, cotangent(data))
    batch = laid(data, packed=True, tokens=160)
    found, gradients = scores_and_gradients(architecture, params, batch, cotangent(data))
    reward_checks.assert_close(found, theirs.scores)
    reward_checks.assert_same_gradients(gradients, theirs.gradients, architecture)


@pytest.mark.oracle
@pytest.mark.parametrize(("buckets", "max_distance"), [(256, 512), (32, 128), (8, 24), (7, 60)])
def test_every_distance_falls_into_the_bucket_of_transformers(buckets, max_distance):
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances = np.arange(-2048, 2049)
    theirs = make_log_bucket_position(torch.tensor(distances), buckets, max_distance)
    theirs = np.clip(theirs.numpy().astype(int) + buckets, 0, 2 * buckets - 1)
    ours = embedded_distances(
        dataclasses.replace(DEBERTA_V3, buckets=buckets, max_distance=max_distance), distances
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["v2, convolution", "v2", "v3"])
def test_what_transformers_writes_comes_in(name, tmp_path):
    pytest.importorskip("torch")
    reward_checks.assert_loads_what_transformers_writes(DEBERTAS[name], tmp_path)


@pytest.mark.parametrize("architecture", [DEBERTA_V3, CONVOLVED], ids=["v3", "v2"])
def test_packing_changes_nothing(architecture):
    reward_checks.assert_packing_changes_nothing(architecture)


@pytest.mark.parametrize("architecture", [DEBERTA_V3, CONVOLVED], ids=["v3", "v2"])
def test_no_text_sees_another(architecture):
    reward_checks.assert_no_text_sees_another(architecture)


def test_a_mesh_changes_nothing():
    reward_checks.assert_a_mesh_changes_nothing(CONVOLVED, (2, 2, 2))


def test_how_it_is_computed_changes_nothing():
    reward_checks.assert_compute_changes_nothing(CONVOLVED)


def test_near_distances_have_rows_of_their_own_and_far_ones_share():
    a = Architecture(1, 1, 1, 1, 1, max_distance=512, buckets=256)
    rows = embedded_distances(a, np.arange(600))
    np.testing.assert_array_equal(rows[:129], 256 + np.arange(129))
    assert (np.diff(rows) >= 0).all()
    assert rows[511] == rows[599] == 511
    assert rows[130] < rows[150] < rows[511]
    np.testing.assert_array_equal(
        embedded_distances(a, -np.arange(500)) - 256, 256 - embedded_distances(a, np.arange(500))
    )


def test_without_buckets_distances_differ_up_to_the_largest():
    a = Architecture(1, 1, 1, 1, 1, max_distance=4, buckets=0)
    assert embedded_distances(a, np.arange(-6, 7)).tolist() == [
        0,
        0,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        7,
        7,
        7,
    ]


def test_a_skewed_band_is_what_a_gather_reads():
    T = 5
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, T, 2 * T), np.float32))
    i, j = np.mgrid[:T, :T]
    np.testing.assert_array_equal(skew(x), x[:, :, i, T - 1 - i + j])


def test_order_and_token_types_matter():
    architecture = CONVOLVED
    params, data = random_params(architecture), texts(architecture)
    batch = laid(data, packed=False)
    before = scores(architecture, params, batch)
    swapped = batch._replace(types=1 - batch.types)
    assert np.abs(scores(architecture, params, swapped) - before).min() > 1e-3
    tokens = np.array(batch.tokens)
    tokens[:, [1, 2]] = tokens[:, [2, 1]]
    moved = np.abs(scores(architecture, params, batch._replace(tokens=tokens)) - before)
    assert (moved[data.lengths > 2] > 1e-4).all()
