"""Our tiny policy as TRL takes it: a torch model, a tokenizer, gradients by our names.

Needs torch.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlft_jax.models import convert
from rlft_jax.models.qwen2 import Architecture

# No trainer here writes, reports, or saves memory at the price of a warning.
QUIET = dict(use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False)


def save(params: convert.Params, architecture: Architecture, folder: Path) -> Path:
    """Writes parameters and a tokenizer of one word per id as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    convert.save(folder, params, architecture, dtype="float32")
    save_tokenizer(folder, architecture.vocabulary, pad_id=architecture.vocabulary - 2)
    return folder


def save_tokenizer(folder: Path, vocabulary: int, *, pad_id: int) -> None:
    """Writes a tokenizer of one word per id, of which the last one ends texts."""
    words = {f"w{i}": i for i in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=f"w{vocabulary - 1}",
        pad_token=f"w{pad_id}",
    ).save_pretrained(folder)


def load(folder: Path) -> Any:
    """The folder's model."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


def gradients(model: Any, architecture: Architecture) -> convert.Params:
    """What `backward` left, by our names and in our layout."""
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters()}

    def ours(entry: convert.Entry) -> Any:
        parts = [theirs[name].T if entry.is_transposed else theirs[name] for name in entry.names]
        return np.stack(parts) if entry.is_stacked else parts[0]

    return unflatten_dict({p: ours(e) for p, e in convert.entries(architecture).items()})
