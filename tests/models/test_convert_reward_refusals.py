"""Folders that hold no reward model: loading says all that is wrong, and has allocated nothing."""

import numpy as np
import pytest

from rlft_jax.models import reward, tensor_table
from tests.models.checkpoints import change_config, change_tensors
from tests.models.reward_folders import base_distilbert
from tests.models.reward_models import DEBERTA_V2, DEBERTA_V3, DISTILBERT, QWEN2, exported

ZEROS = np.zeros(16, np.float32)
REFUSED = {
    "another kind": (
        DEBERTA_V3,
        lambda f: change_config(f, model_type="deberta"),
        ["unknown architecture 'deberta'", "deberta-v2, distilbert, qwen2"],
    ),
    "only pickle": (
        DEBERTA_V3,
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        ["as pickle (pytorch_model.bin)", "safe_serialization"],
    ),
    "all of a DeBERTa's strangeness": (
        DEBERTA_V3,
        lambda f: change_config(
            f,
            architectures=["DebertaV2ForTokenClassification"],
            id2label={"0": "A", "1": "B", "2": "C"},
            relative_attention=False,
            pos_att_type=["p2p", "c2p"],
            norm_rel_ebd="batch_norm",
            conv_kernel_size=4,
            conv_groups=2,
            hidden_act="swish",
            share_att_key="yes",
            layer_norm_eps=0,
            type_vocab_size=-1,
            position_buckets=[8],
            num_hidden_layers=0,
            quantization_config={"bits": 4},
        ),
        [
            "DebertaV2ForTokenClassification",
            "gives 3 scores",
            "relative_attention = False",
            "pos_att_type = ['p2p', 'c2p']",
            "norm_rel_ebd = 'batch_norm'",
            "conv_kernel_size = 4",
            "conv_groups = 2",
            "hidden_act = 'swish'",
            "share_att_key = 'yes'",
            "layer_norm_eps = 0",
            "type_vocab_size = -1",
            "position_buckets = [8]",
            "num_hidden_layers = 0",
            "quantization_config",
        ],
    ),
    "a DeBERTa of several widths": (
        DEBERTA_V3,
        lambda f: change_config(
            f, embedding_size=8, pooler_hidden_size=8, attention_head_size=8, position_buckets=90
        ),
        ["embedding_size = 8", "pooler_hidden_size = 8", "attention_head_size = 8", "= 90"],
    ),
    "all of a DistilBERT's strangeness": (
        DISTILBERT,
        lambda f: change_config(
            f, activation=["gelu"], sinusoidal_pos_embds=True, n_heads=3, auto_map={"A": "b"}
        ),
        ["activation = ['gelu']", "sinusoidal_pos_embds = True", "dim = 16 does not", "auto_map"],
    ),
    "a Qwen2 that slides": (
        QWEN2,
        lambda f: change_config(f, use_sliding_window=True, hidden_act="gelu"),
        ["use_sliding_window = True", "hidden_act = 'gelu'"],
    ),
    "no labels, which are two": (
        DISTILBERT,
        lambda f: change_config(f, id2label=None),
        ["gives 2 scores"],
    ),
    "a billion layers": (
        DISTILBERT,
        lambda f: change_config(f, n_layers=10**9),
        ["too few for the n_layers = 1000000000"],
    ),
    "missing, left over, misshapen and of another dtype at once": (
        DEBERTA_V2,
        lambda f: change_tensors(
            f,
            classifier__bias=None,
            deberta__encoder__layer__1__attention__self__pos_key_proj__weight=None,
            deberta__encoder__layer__2__output__dense__bias=ZEROS,
            deberta__embeddings__LayerNorm__weight=np.zeros(17, np.float32),
            pooler__dense__bias=np.zeros(16, np.int64),
            cls__predictions__bias=ZEROS,
        ),
        [
            "classifier.bias is missing",
            "layer.1.attention.self.pos_key_proj.weight is missing",
            "layer.2.output.dense.bias is not part",
            "embeddings.LayerNorm.weight is [17], not [16]",
            "pooler.dense.bias has dtype I64",
            "cls.predictions.bias is not part",
        ],
    ),
    "an old name beside the new one": (
        DEBERTA_V2,
        lambda f: change_tensors(f, deberta__embeddings__LayerNorm__gamma=ZEROS),
        ["embeddings.LayerNorm.gamma is not part"],
    ),
}


@pytest.mark.parametrize(("architecture", "spoil", "said"), REFUSED.values(), ids=REFUSED)
def test_a_strange_folder_is_refused_with_everything_wrong(
    architecture, spoil, said, tmp_path, monkeypatch
):
    exported(tmp_path, architecture)
    spoil(tmp_path)
    monkeypatch.setattr(tensor_table, "_place", lambda *_: pytest.fail("something was allocated"))
    with pytest.raises(ValueError, match=r"model|config") as refusal:
        reward.load(tmp_path)
    assert [part for part in said if part not in str(refusal.value)] == []


def test_a_fresh_head_excuses_nothing_below_it(tmp_path):
    base_distilbert(tmp_path)
    change_tensors(
        tmp_path,
        distilbert__transformer__layer__0__ffn__lin1__bias=None,
        distilbert__transformer__layer__9__ffn__lin1__bias=ZEROS,
    )
    with pytest.raises(ValueError, match=r"layer\.0\.ffn\.lin1\.bias is missing") as refusal:
        reward.load(tmp_path, new_head=0)
    assert "layer.9.ffn.lin1.bias is not part" in str(refusal.value)
