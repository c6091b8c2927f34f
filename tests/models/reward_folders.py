"""Folders of the shape of well-known checkpoints, with small sizes in place of theirs."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from rlft_jax.models.tensor_table import Params
from tests.models.reward_models import DISTILBERT, exported

# The configs of OpenAssistant/reward-model-deberta-v3-large and -v2, of microsoft/deberta-v2-xlarge
# and of distilbert-base-uncased, with small sizes in place of theirs.
OPEN_ASSISTANT = {
    "_name_or_path": "microsoft/deberta-v3-large",
    "architectures": ["DebertaV2ForSequenceClassification"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 16,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-07,
    "max_position_embeddings": 24,
    "max_relative_positions": -1,
    "model_type": "deberta-v2",
    "norm_rel_ebd": "layer_norm",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
    "pooler_hidden_size": 16,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 8,
    "relative_attention": True,
    "share_att_key": True,
    "torch_dtype": "float32",
    "transformers_version": "4.25.1",
    "type_vocab_size": 0,
    "vocab_size": 40,
}
XLARGE = {
    "model_type": "deberta-v2",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 16,
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "layer_norm_eps": 1e-7,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
    "max_relative_positions": -1,
    "position_biased_input": False,
    "num_attention_heads": 4,
    "attention_head_size": 4,
    "num_hidden_layers": 3,
    "type_vocab_size": 0,
    "vocab_size": 40,
}
DISTILBERT_BASE = {
    "activation": "gelu",
    "architectures": ["DistilBertForMaskedLM"],
    "attention_dropout": 0.1,
    "dim": 16,
    "dropout": 0.1,
    "hidden_dim": 24,
    "initializer_range": 0.02,
    "max_position_embeddings": 24,
    "model_type": "distilbert",
    "n_heads": 4,
    "n_layers": 2,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "transformers_version": "4.10.0.dev0",
    "vocab_size": 40,
}
MASKED_LM = {
    "vocab_transform.weight": (16, 16),
    "vocab_transform.bias": (16,),
    "vocab_layer_norm.weight": (16,),
    "vocab_layer_norm.bias": (16,),
    "vocab_projector.weight": (40, 16),
    "vocab_projector.bias": (40,),
}


def write_config(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def base_distilbert(folder: Path) -> Params:
    """A folder of distilbert-base-uncased's shape, as hub files of its age have it."""
    params = exported(folder, DISTILBERT)
    tensors = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if k.startswith("distilbert.")}
    for new, old in (("weight", "gamma"), ("bias", "beta")):
        norm = "distilbert.embeddings.LayerNorm."
        kept[norm + old] = kept.pop(norm + new)
    kept |= {name: np.ones(shape, np.float32) for name, shape in MASKED_LM.items()}
    kept["distilbert.embeddings.position_ids"] = np.arange(24)[None]
    save_file(kept, folder / "model.safetensors")
    write_config(folder, DISTILBERT_BASE)
    return params
