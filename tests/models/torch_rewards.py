"""What transformers computes: scores and gradients of a scoring model at float32. Needs torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlft_jax.texts import Texts


class Reference(NamedTuple):
    """Scores `[B, G]`, and the gradient of every tensor by its name."""

    scores: np.ndarray
    gradients: Mapping[str, np.ndarray]


def reference(folder: Path, texts: Texts, cotangent: np.ndarray) -> Reference:
    """Runs a Hugging Face folder's model on padded texts.

    Args:
        cotangent: The gradients are of the sum of scores times this.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    B, G, T = texts.tokens.shape
    mask = np.arange(T) < texts.lengths.reshape(B * G, 1)
    rows = lambda x: torch.tensor(x.reshape(B * G, T)).long()
    inputs = {"input_ids": rows(texts.tokens), "attention_mask": rows(mask)}
    if model.config.model_type == "deberta-v2":
        inputs["token_type_ids"] = rows(texts.types)
    scores = model(**inputs).logits.reshape(B, G)
    (scores * torch.tensor(cotangent)).sum().backward()
    gradients = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).numpy()
        for name, p in model.named_parameters()
    }
    return Reference(scores.detach().numpy(), gradients)
