"""Checkpoints come in and go out without a bit changed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import safe_open

from rlft_jax.models import convert, safetensors_files
from rlft_jax.models.convert_config import read_architecture
from rlft_jax.models.new_folder import new_folder
from tests.models.checkpoints import change_config, change_tensors, export, raw
from tests.models.qwen2_models import SHAPES, TINY, random_params

UNTIED = dataclasses.replace(TINY, tied=False)


@pytest.mark.parametrize("architecture", SHAPES.values(), ids=SHAPES)
def test_the_architecture_comes_back(architecture, tmp_path):
    export(tmp_path, architecture)
    assert read_architecture(tmp_path) == architecture


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", [TINY, UNTIED], ids=["tied", "untied"])
def test_a_round_trip_at_the_sources_dtype_changes_no_bit(architecture, dtype, tmp_path):
    params = export(tmp_path / "a", architecture, dtype=dtype)
    loaded = convert.load(tmp_path / "a")
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    (tmp_path / "b").mkdir()
    convert.save(tmp_path / "b", loaded, architecture, dtype=dtype, source=tmp_path / "a")
    assert raw(tmp_path / "b") == raw(tmp_path / "a")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "b" / name).read_text()) == json.loads(
            (tmp_path / "a" / name).read_text()
        )


def test_kernels_are_transposed_and_layers_stacked(tmp_path):
    params = export(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        theirs = file.get_tensor("model.layers.1.self_attn.k_proj.weight")
        assert "lm_head.weight" not in set(file.keys())
    assert theirs.shape == (8, 16)
    np.testing.assert_array_equal(theirs.T, params["layers"]["attention"]["k"]["kernel"][1])


def test_bfloat16_is_rounded_to_nearest(tmp_path):
    params = random_params()
    convert.save(tmp_path, params, TINY, dtype="bfloat16")
    jax.tree.map(
        lambda ours, x: np.testing.assert_array_equal(ours, np.asarray(x).astype("bfloat16")),
        convert.load(tmp_path, dtype="bfloat16"),
        params,
    )


def test_shards_hold_what_one_file_holds(tmp_path):
    params = export(tmp_path / "one")
    export(tmp_path / "many", shard_bytes=4000)
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in jax.tree.leaves(params))
    assert raw(tmp_path / "many") == raw(tmp_path / "one")
    jax.tree.map(np.testing.assert_array_equal, convert.load(tmp_path / "many"), params)


def test_every_sharding_holds_the_same_values(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_files, "BLOCK_BYTES", 200)
    architecture = dataclasses.replace(TINY, vocabulary=40)
    params = export(tmp_path, architecture)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    specs = {1: P(), 2: P(None, "tensor"), 3: P(None, "fsdp", "tensor")}
    shardings = jax.tree.map(lambda x: NamedSharding(mesh, specs[x.ndim]), params)
    shardings["embed"]["embedding"] = NamedSharding(mesh, P("tensor", "fsdp"))
    loaded = convert.load(tmp_path, shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert jax.tree.map(lambda x: x.sharding, loaded) == shardings
    (tmp_path / "again").mkdir()
    convert.save(tmp_path / "again", loaded, architecture, dtype="float32")
    assert raw(tmp_path / "again") == raw(tmp_path)


def test_transformers_5_and_4_configs_are_the_same_architecture(tmp_path):
    export(tmp_path)
    change_config(tmp_path, rope_theta=None, torch_dtype=None, dtype="float32", head_dim=None)
    assert read_architecture(tmp_path) == TINY
    change_config(tmp_path, rope_theta=10_000.0, rope_parameters=None, rope_scaling=None)
    assert read_architecture(tmp_path) == TINY


def test_the_real_config_is_the_half_billion_model(shared_data, tmp_path):
    source = shared_data / "tokenizers/qwen2.5/config.qwen2.5-0.5b.instruct.json"
    (tmp_path / "config.json").write_text(source.read_text())
    architecture = read_architecture(tmp_path)
    sizes = [np.prod(e.stacked_shape) for e in convert.entries(architecture).values()]
    assert sum(sizes) == 494_032_768


def test_what_the_source_says_beyond_our_knowledge_is_kept(tmp_path):
    params = export(tmp_path / "a")
    change_config(tmp_path / "a", eos_token_id=5, some_extension={"x": 1}, dtype="float32")
    generation = {"eos_token_id": [5, 6], "temperature": 0.7, "do_sample": True}
    (tmp_path / "a/generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "b").mkdir()
    convert.save(tmp_path / "b", params, TINY, dtype="bfloat16", source=tmp_path / "a")
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert config["some_extension"] == {"x": 1}
    assert config["eos_token_id"] == 5
    assert config["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "b/generation_config.json").read_text()) == generation


def test_stop_tokens_reach_the_generation_config(tmp_path):
    export(tmp_path, stop_ids=[3, 4], pad_id=0)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == ([3, 4], 0)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == [3, 4]


def test_another_sources_config_is_refused(tmp_path):
    params = export(tmp_path / "a", UNTIED)
    (tmp_path / "b").mkdir()
    del params["head"]
    with pytest.raises(ValueError, match="Export with the checkpoint that training began with"):
        convert.save(tmp_path / "b", params, TINY, source=tmp_path / "a")
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize("value", [float("nan"), 1e5])
def test_what_is_not_finite_in_the_files_type_is_refused(value, tmp_path):
    params = random_params()
    params["norm"]["scale"] = params["norm"]["scale"].at[3].set(value)
    with (
        pytest.raises(ValueError, match=r"model\.norm\.weight is not finite in float16"),
        new_folder(tmp_path / "export") as folder,
    ):
        convert.save(folder, params, TINY, dtype="float16")
    assert not list(tmp_path.iterdir())


def test_known_duplicates_and_buffers_are_not_left_over(tmp_path):
    params = export(tmp_path)
    change_tensors(
        tmp_path,
        lm_head__weight=params["embed"]["embedding"],
        model__layers__0__self_attn__rotary_emb__inv_freq=np.zeros(2, np.float32),
    )
    jax.tree.map(np.testing.assert_array_equal, convert.load(tmp_path), params)


def test_the_hubs_cache_may_link_to_its_blobs(tmp_path):
    snapshot = tmp_path / "models--a--b/snapshots/0123"
    params = export(snapshot)
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir()
    (snapshot / "model.safetensors").rename(blobs / "4567")
    (snapshot / "model.safetensors").symlink_to("../../blobs/4567")
    jax.tree.map(np.testing.assert_array_equal, convert.load(snapshot), params)


def test_a_name_that_is_no_folder_is_asked_of_the_hub(tmp_path):
    assert convert.resolve(str(tmp_path)) == tmp_path
    for name in ("nobody/nothing", "/no/such/folder", "a b"):
        with pytest.raises(ValueError, match=f"'{name}' is no folder, and the hub does not"):
            convert.resolve(name)
