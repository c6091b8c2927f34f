"""A Hugging Face folder of a tiny random model that speaks in bytes."""

import dataclasses

import pytest

from rlft_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlft_jax.models import convert
from tests.data.conftest import small_tokenizer
from tests.models.qwen2_models import TINY, params_of, random_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = small_tokenizer(eos_token="<end>")
    architecture = dataclasses.replace(
        TINY, vocabulary=tokenizer.vocab_size, layers=1, max_positions=512
    )
    params = params_of(random_model(architecture))
    convert.save(folder, params, architecture, dtype="float32", stop_ids=[tokenizer.id_of("<end>")])
    tokenizer.save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer(model_folder) -> Tokenizer:
    return load_tokenizer(model_folder)
