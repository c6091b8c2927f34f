"""Spoiled checkpoints: loading says all that is wrong, and has allocated nothing."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from rlft_jax.models import convert, tensor_table
from tests.models.checkpoints import change_config, change_tensors, export, raw


def change_header(folder: Path, change) -> None:
    """Rewrites the header of model.safetensors; `change` takes and returns its text or object."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = change(json.loads(data[8 : 8 + length]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def entry_of(header: dict, **changes) -> dict:
    header["model.norm.weight"].update(changes)
    return header


def index_to(folder: Path, name: str) -> None:
    """Replaces the one file by an index that says everything is in `name`."""
    names = raw(folder)
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def lengthen(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")


def link_out(folder: Path) -> None:
    index_to(folder, "linked.safetensors")
    (folder / "linked.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def huge_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 10**8 + 1))
        file.truncate(2 * 10**8)  # sparse


def header_past_the_end(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 2**63))


def duplicate_name(folder: Path) -> None:
    twice = lambda header: json.dumps(header)[:-1].encode() + b',"model.norm.weight":{}}'
    change_header(folder, twice)


def shift_norm(by: int):
    def change(header: dict) -> dict:
        first, last = header["model.norm.weight"]["data_offsets"]
        return entry_of(header, data_offsets=[first + by, last + by])

    return lambda folder: change_header(folder, change)


LAST_KERNEL = "model.layers.1.mlp.down_proj.weight"
ZEROS = np.zeros(16, np.float32)
REFUSED = {
    "only pickle": (only_pickle, ["as pickle (pytorch_model.bin)"]),
    "nothing": (
        lambda f: (f / "model.safetensors").unlink(),
        ["has neither model.safetensors nor"],
    ),
    "no config": (lambda f: (f / "config.json").unlink(), ["has no config.json"]),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ["is not JSON"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["not a JSON object"]),
    "another model type": (
        lambda f: change_config(f, model_type="llama"),
        ["unknown architecture 'llama'"],
    ),
    "all of a config's strangeness": (
        lambda f: change_config(
            f,
            architectures=["Qwen2ForSequenceClassification"],
            hidden_act="gelu",
            use_sliding_window=True,
            layer_types=["full_attention", "sliding_attention"],
            rope_scaling={"rope_type": "yarn", "factor": 4.0},
            quantization_config={"bits": 4},
            auto_map={"AutoModelForCausalLM": "modeling.Mine"},
            num_key_value_heads=3,
            rms_norm_eps="small",
        ),
        [
            "Qwen2ForSequenceClassification",
            "hidden_act = 'gelu'",
            "use_sliding_window = True",
            "sliding_attention",
            "yarn",
            "quantization_config",
            "auto_map",
            "num_attention_heads = 4 does not divide into num_key_value_heads = 3",
            "rms_norm_eps = 'small'",
        ],
    ),
    "sizes that are none": (
        lambda f: change_config(f, vocab_size="many", hidden_size=None, num_hidden_layers=0),
        ["vocab_size = 'many'", "hidden_size = None", "num_hidden_layers = 0"],
    ),
    "an odd head": (lambda f: change_config(f, head_dim=3), ["head_dim = 3 is odd"]),
    "rope_parameters that is none": (
        lambda f: change_config(f, rope_parameters=7),
        ["rope_parameters = 7, not an object"],
    ),
    "a billion layers": (
        lambda f: change_config(f, num_hidden_layers=10**9),
        ["too few for the num_hidden_layers = 1000000000"],
    ),
    "missing, left over, misshapen and of another dtype at once": (
        lambda f: change_tensors(
            f,
            model__norm__weight=None,
            model__layers__1__mlp__up_proj__weight=None,
            model__layers__2__mlp__up_proj__weight=ZEROS,
            model__layers__0__input_layernorm__weight=np.zeros(17, np.float32),
            model__layers__1__input_layernorm__weight=np.zeros(16, np.float64),
            model__layers__0__self_attn__q_proj__bias=np.zeros(16, np.int8),
            lm_head__weight=np.zeros((37, 16), np.float32),
        ),
        [
            "model.norm.weight is missing",
            "model.layers.1.mlp.up_proj.weight is missing",
            "model.layers.2.mlp.up_proj.weight is not part",
            "model.layers.0.input_layernorm.weight is [17], not [16]",
            "model.layers.1.input_layernorm.weight has dtype F64",
            "model.layers.0.self_attn.q_proj.bias has dtype I8",
            "lm_head.weight differs from the embedding",
        ],
    ),
    "a tied head that differs": (
        lambda f: change_tensors(f, lm_head__weight=np.zeros((37, 16), np.float32)),
        ["lm_head.weight differs from the embedding"],
    ),
    "an index upwards": (lambda f: index_to(f, "../elsewhere.safetensors"), ["outside the folder"]),
    "an absolute index": (
        lambda f: index_to(f, str(f.parent / "elsewhere.safetensors")),
        ["outside the folder"],
    ),
    "an index into a subfolder": (lambda f: index_to(f, "a/b.safetensors"), ["outside the folder"]),
    "an index to a link outwards": (link_out, ["outside the folder"]),
    "an index to nothing": (lambda f: index_to(f, "gone.safetensors"), ["lacks gone.safetensors"]),
    "an index without a map": (
        lambda f: (
            only_pickle(f),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
        ),
        ["has no `weight_map`"],
    ),
    "a short file": (truncate, ["tensors end at byte"]),
    "a long file": (lengthen, ["tensors end at byte"]),
    "an empty file": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        ["its header of 0 bytes does not fit into 0 bytes"],
    ),
    "a header over the limit": (huge_header, ["its header of 100000001 bytes is over"]),
    "a header past the end": (header_past_the_end, ["does not fit into"]),
    "a header that is no JSON": (lambda f: change_header(f, lambda _: b"{x"), ["is not JSON"]),
    "a header without bottom": (
        lambda f: change_header(f, lambda _: b"[" * 200_000),
        ["is not JSON"],
    ),
    "a header that is a list": (lambda f: change_header(f, lambda _: [1]), ["not a JSON object"]),
    "a name twice": (duplicate_name, ["names model.norm.weight twice"]),
    "overlapping tensors": (shift_norm(-4), ["begins at byte"]),
    "a gap between tensors": (shift_norm(4), ["begins at byte"]),
    "a shape that its bytes do not fill": (
        lambda f: change_header(f, lambda h: entry_of(h, shape=[2**31, 2**33])),
        ["'model.norm.weight' claims bytes"],
    ),
    "a negative shape": (
        lambda f: change_header(f, lambda h: entry_of(h, shape=[-4, -4])),
        ["impossible shape [-4, -4]"],
    ),
    "offsets that are none": (
        lambda f: change_header(f, lambda h: entry_of(h, data_offsets=[0.0, 64])),
        ["impossible data_offsets"],
    ),
    "an unheard-of dtype": (
        lambda f: change_header(f, lambda h: entry_of(h, dtype="F31")),
        ["unknown dtype 'F31'"],
    ),
}


@pytest.mark.parametrize(("spoil", "said"), REFUSED.values(), ids=REFUSED)
def test_a_spoiled_checkpoint_is_refused_with_everything_wrong(spoil, said, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    export(folder)
    spoil(folder)
    monkeypatch.setattr(tensor_table, "_place", lambda *_: pytest.fail("something was allocated"))
    with pytest.raises(ValueError, match="model") as refusal:
        convert.load(folder)
    assert [part for part in said if part not in str(refusal.value)] == []


def test_shards_that_disagree_with_their_index_are_refused(tmp_path):
    export(tmp_path, shard_bytes=4000)
    file = tmp_path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    files, embedding, kernel = index["weight_map"], "model.embed_tokens.weight", LAST_KERNEL
    assert files[embedding] != files[kernel]
    first = files[embedding]
    files |= {embedding: files[kernel], kernel: first, "imagined.weight": first}
    file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="the index and its files disagree") as refusal:
        convert.load(tmp_path)
    assert f"{kernel} is in {files[embedding]}, the index says {first}" in str(refusal.value)
    assert f"imagined.weight is not in {first}" in str(refusal.value)
