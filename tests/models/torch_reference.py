"""What transformers computes: logits and gradients of a Qwen2 at float32. Needs torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Reference(NamedTuple):
    """Logits `[R, T, V]`, and the gradient of every tensor by its name."""

    logits: np.ndarray
    gradients: Mapping[str, np.ndarray]


def reference(
    folder: Path, tokens: np.ndarray, mask: np.ndarray, cotangent: np.ndarray
) -> Reference:
    """Runs a Hugging Face folder's model on padded rows.

    Args:
        mask: 1 at tokens, 0 at padding on either side.
        cotangent: The gradients are of the sum of logits times this, over tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    mask = torch.tensor(mask)
    logits = model(
        input_ids=torch.tensor(tokens).long(),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
    ).logits
    (logits * torch.tensor(cotangent) * mask[..., None]).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return Reference(logits.detach().numpy(), gradients)
