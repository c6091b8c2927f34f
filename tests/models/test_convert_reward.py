"""Reward models come in from and go out to Hugging Face folders, and nothing strange does."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlft_jax.models import convert, reward
from rlft_jax.models.tensor_table import by_place
from rlft_jax.texts import Texts
from rlft_jax.training.sharding import make_mesh, shardings
from tests.golden.make_reward_golden import FILE as GOLDEN
from tests.models.checkpoints import change_config, change_tensors, raw
from tests.models.qwen2_models import TINY
from tests.models.qwen2_models import random_params as random_policy
from tests.models.reward_checks import assert_close, assert_same_gradients
from tests.models.reward_folders import (
    DISTILBERT_BASE,
    MASKED_LM,
    OPEN_ASSISTANT,
    XLARGE,
    base_distilbert,
    write_config,
)
from tests.models.reward_models import (
    DEBERTA_V2,
    DEBERTA_V3,
    DEBERTAS,
    DISTILBERT,
    ONE_OF_EACH,
    QWEN2,
    cotangent,
    exported,
    laid,
    random_params,
    scores,
    scores_and_gradients,
    texts,
)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_scores_and_gradients_equal_the_golden_ones(name, tmp_path):
    with np.load(GOLDEN) as file:
        arrays = {k.removeprefix(f"{name}/"): file[k] for k in file if k.startswith(f"{name}/")}
    for key in ("model.safetensors", "config.json"):
        (tmp_path / key).write_bytes(arrays[f"file/{key}"].tobytes())
    architecture = reward.read_reward_architecture(tmp_path)
    assert architecture == ONE_OF_EACH[name]
    _, params = reward.load(tmp_path)
    data = Texts(arrays["tokens"], arrays["types"], arrays["lengths"])
    found, gradients = scores_and_gradients(
        architecture, params, laid(data, packed=True), arrays["cotangent"]
    )
    assert_close(found, arrays["scores"])
    theirs = {k.removeprefix("gradient/"): v for k, v in arrays.items() if "gradient/" in k}
    assert_same_gradients(gradients, theirs, architecture)


ALL = {**DEBERTAS, "distilbert": DISTILBERT, "qwen2": QWEN2}


@pytest.mark.parametrize("architecture", ALL.values(), ids=ALL)
def test_a_round_trip_changes_no_bit(architecture, tmp_path):
    params = exported(tmp_path / "a", architecture)
    assert reward.read_reward_architecture(tmp_path / "a") == architecture
    graph, loaded = reward.load(tmp_path / "a")
    assert graph == reward.structure(architecture)[0]
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    (tmp_path / "b").mkdir()
    reward.save(tmp_path / "b", loaded, architecture, source=tmp_path / "a")
    assert raw(tmp_path / "b") == raw(tmp_path / "a")
    read = lambda name: json.loads((tmp_path / name / "config.json").read_text())
    assert read("a") == read("b")


@pytest.mark.parametrize("architecture", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_the_shapes_of_a_structure_are_those_of_the_table(architecture):
    _, shapes = reward.structure(architecture)
    where = shardings(shapes, make_mesh(data=2, fsdp=2, tensor=2))
    made = reward.fresh(architecture, seed=0, shardings=where)
    assert jax.tree.map(lambda x: x.sharding, made) == where
    sizes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    assert sizes(shapes) == sizes(random_params(architecture)) == sizes(made)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(made))


@pytest.mark.parametrize("architecture", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_every_sharding_holds_the_same_values(architecture, tmp_path):
    params = exported(tmp_path, architecture, shard_bytes=4000)
    where = shardings(params, make_mesh(data=2, fsdp=2, tensor=2))
    _, loaded = reward.load(tmp_path, shardings=where)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert jax.tree.map(lambda x: x.sharding, loaded) == where
    _, renewed = reward.load(tmp_path, shardings=where, new_head=3)
    assert jax.tree.map(lambda x: x.sharding, renewed) == where


@pytest.mark.parametrize("name", ["reward-model-deberta-v3-large", "deberta-v2-xlarge"])
def test_real_configs_describe_what_we_compute(name, tmp_path):
    config, architecture = {
        "reward-model-deberta-v3-large": (OPEN_ASSISTANT, DEBERTA_V3),
        "deberta-v2-xlarge": (XLARGE, DEBERTAS["v2, convolution"]),
    }[name]
    params = exported(tmp_path, architecture)
    write_config(tmp_path, config)
    change_tensors(
        tmp_path,
        deberta__embeddings__position_ids=np.arange(24)[None],
        deberta__embeddings__position_embeddings__weight=np.zeros((24, 16), np.float32),
    )
    has_head = "architectures" in config
    if not has_head:
        with pytest.raises(ValueError, match="gives 2 scores"):
            reward.read_reward_architecture(tmp_path)
    assert reward.read_reward_architecture(tmp_path, new_head=not has_head) == architecture
    _, loaded = reward.load(tmp_path, new_head=None if has_head else 0)
    for place, value in by_place(loaded).items():
        if has_head or place[0] not in reward.HEAD:
            np.testing.assert_array_equal(value, by_place(params)[place])


def test_a_base_model_trains_with_a_fresh_head_and_says_what_it_leaves_out(tmp_path):
    params = base_distilbert(tmp_path / "base")
    with pytest.raises(ValueError, match=r"DistilBertForMaskedLM(.|\n)*ask for one \(new_head\)"):
        reward.load(tmp_path / "base")
    _, loaded = reward.load(tmp_path / "base", new_head=7)
    assert sorted(reward.left_out(tmp_path / "base")) == sorted(MASKED_LM)
    for place, value in by_place(loaded).items():
        if place[0] in reward.HEAD:
            is_bias = place[-1] == "bias"
            assert (np.std(value) == 0) if is_bias else (0.01 < np.std(value) < 0.03)
        else:
            np.testing.assert_array_equal(value, by_place(params)[place])
    again, other = (reward.load(tmp_path / "base", new_head=seed)[1] for seed in (7, 8))
    jax.tree.map(np.testing.assert_array_equal, again, loaded)
    assert (other["score"]["kernel"] != loaded["score"]["kernel"]).all()
    (tmp_path / "out").mkdir()
    reward.save(tmp_path / "out", loaded, DISTILBERT, source=tmp_path / "base")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["tie_weights_"] is True
    jax.tree.map(np.testing.assert_array_equal, reward.load(tmp_path / "out")[1], loaded)


def test_a_policy_becomes_a_reward_model(tmp_path):
    policy, out = tmp_path / "policy", tmp_path / "reward"
    policy.mkdir(), out.mkdir()
    params = random_policy()
    convert.save(policy, params, TINY, dtype="float32")
    with pytest.raises(ValueError, match="Qwen2ForCausalLM"):
        reward.load(policy)
    _, loaded = reward.load(policy, new_head=0)
    np.testing.assert_array_equal(loaded["embed"]["embedding"], params["embed"]["embedding"])
    assert loaded["score"]["kernel"].shape == (TINY.width, 1)
    reward.save(out, loaded, reward.read_reward_architecture(policy, new_head=True), source=policy)
    jax.tree.map(np.testing.assert_array_equal, reward.load(out)[1], loaded)
    with pytest.raises(ValueError, match="Qwen2ForSequenceClassification"):
        convert.load(out)


def test_an_untied_policys_head_is_left_out(tmp_path):
    architecture = TINY.__class__(**{**vars(TINY), "tied": False})
    convert.save(tmp_path, random_policy(architecture), architecture, dtype="float32")
    reward.load(tmp_path, new_head=0)
    assert reward.left_out(tmp_path) == ["lm_head.weight"]


def test_a_bare_encoder_comes_in_under_its_own_names(tmp_path):
    params = exported(tmp_path, DEBERTA_V2)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {k.removeprefix("deberta."): v for k, v in tensors.items() if k.startswith("deberta.")}
    save_file(bare, tmp_path / "model.safetensors")
    change_config(tmp_path, architectures=["DebertaV2Model"], id2label=None, label2id=None)
    _, loaded = reward.load(tmp_path, new_head=0)
    assert reward.left_out(tmp_path) == []
    np.testing.assert_array_equal(
        loaded["layers"]["attention"]["distance_q"]["kernel"],
        params["layers"]["attention"]["distance_q"]["kernel"],
    )


def test_a_head_of_several_labels_is_replaced_on_request(tmp_path):
    params = exported(tmp_path, DISTILBERT)
    change_config(tmp_path, id2label={"0": "BAD", "1": "GOOD"}, label2id={"BAD": 0, "GOOD": 1})
    change_tensors(
        tmp_path,
        classifier__weight=np.ones((2, 16), np.float32),
        classifier__bias=np.ones(2, np.float32),
    )
    with pytest.raises(ValueError, match=r"gives 2 scores \(id2label\), not 1(.|\n)*new_head"):
        reward.load(tmp_path)
    _, loaded = reward.load(tmp_path, new_head=0)
    assert loaded["score"]["kernel"].shape == (16, 1)
    assert (loaded["pooler"]["kernel"] != params["pooler"]["kernel"]).any()
    assert "classifier.weight" in reward.left_out(tmp_path)


def test_another_sources_config_is_refused(tmp_path):
    exported(tmp_path / "a", DISTILBERT)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    change_config(tmp_path / "b", n_heads=2)
    with pytest.raises(ValueError, match="Export with the checkpoint that training began with"):
        reward.save(tmp_path, random_params(DISTILBERT), DISTILBERT, source=tmp_path / "b")


def test_what_is_not_finite_is_refused(tmp_path):
    params = random_params(DISTILBERT)
    params["score"]["bias"] = params["score"]["bias"].at[0].set(float("nan"))
    with pytest.raises(ValueError, match=r"classifier\.bias is not finite in bfloat16"):
        reward.save(tmp_path, params, DISTILBERT, dtype="bfloat16")


@pytest.mark.oracle
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_export_is_read_by_transformers_without_a_word(name, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    architecture = ONE_OF_EACH[name]
    exported(tmp_path, architecture, dtype="bfloat16")
    model, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    assert model.config.num_labels == 1
    assert model.dtype == torch.bfloat16


@pytest.mark.oracle
def test_a_base_model_that_transformers_writes_comes_in(tmp_path):
    pytest.importorskip("torch")
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    from tests.models.torch_rewards import reference

    DistilBertForMaskedLM(DistilBertConfig(**DISTILBERT_BASE)).save_pretrained(tmp_path / "base")
    _, params = reward.load(tmp_path / "base", new_head=0)
    assert {"vocab_transform.weight", "vocab_layer_norm.bias"} <= set(
        reward.left_out(tmp_path / "base")
    )
    (tmp_path / "out").mkdir()
    reward.save(tmp_path / "out", params, DISTILBERT, source=tmp_path / "base")
    data = texts(DISTILBERT)
    theirs = reference(tmp_path / "out", data, cotangent(data)).scores
    assert_close(scores(DISTILBERT, params, laid(data, packed=True)), theirs)
