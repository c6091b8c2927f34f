"""DistilBERT's scores and gradients equal those of transformers, padded and packed."""

import numpy as np
import pytest

from tests.models import reward_checks
from tests.models.reward_models import DISTILBERT, DISTILBERTS, laid, random_params, scores, texts


@pytest.mark.oracle
@pytest.mark.parametrize("architecture", DISTILBERTS.values(), ids=DISTILBERTS)
def test_scores_and_gradients_equal_those_of_transformers(architecture, tmp_path):
    pytest.importorskip("torch")
    reward_checks.assert_equals_transformers(architecture, tmp_path)


@pytest.mark.oracle
def test_what_transformers_writes_comes_in(tmp_path):
    pytest.importorskip("torch")
    reward_checks.assert_loads_what_transformers_writes(DISTILBERT, tmp_path)


def test_packing_changes_nothing():
    reward_checks.assert_packing_changes_nothing(DISTILBERT)


def test_no_text_sees_another():
    reward_checks.assert_no_text_sees_another(DISTILBERT)


def test_a_mesh_changes_nothing():
    reward_checks.assert_a_mesh_changes_nothing(DISTILBERT, (2, 2, 2))


def test_token_types_do_not_matter():
    params, batch = random_params(DISTILBERT), laid(texts(DISTILBERT), packed=True)
    before = scores(DISTILBERT, params, batch)
    after = scores(DISTILBERT, params, batch._replace(types=1 - batch.types))
    np.testing.assert_array_equal(after, before)
