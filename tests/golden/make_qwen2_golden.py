"""Makes qwen2.npz: tiny models with the logits and gradients that transformers gives them.

    python -m tests.golden.make_qwen2_golden

Needs torch. Every model's arrays are prefixed with its name; tensors have Hugging Face's names.
"""

import tempfile
from pathlib import Path

import numpy as np

from rlft_jax.models import convert
from tests.models.qwen2_models import SHAPES, random_params, rows
from tests.models.torch_reference import reference

FILE = Path(__file__).with_name("qwen2.npz")
NAMES = ("tied, 1 KV head", "wider heads, untied")


def golden(name: str) -> dict[str, np.ndarray]:
    """One model's inputs, weights, logits and gradients."""
    tokens, mask, cotangent = rows(SHAPES[name], padding="left")
    with tempfile.TemporaryDirectory() as folder:
        convert.save(Path(folder), random_params(SHAPES[name]), SHAPES[name], dtype="float32")
        logits, gradients = reference(Path(folder), tokens, mask, cotangent)
        weights = (Path(folder) / "model.safetensors").read_bytes()
        config = (Path(folder) / "config.json").read_bytes()
    arrays = {"tokens": tokens, "mask": mask, "cotangent": cotangent, "logits": logits}
    arrays |= {f"file/{key}": np.frombuffer(value, np.uint8) for key, value in
               {"model.safetensors": weights, "config.json": config}.items()}  # fmt: skip
    arrays |= {f"gradient/{key}": value for key, value in gradients.items()}
    return {f"{name}/{key}": value for key, value in arrays.items()}


if __name__ == "__main__":
    np.savez_compressed(FILE, **{k: v for name in NAMES for k, v in golden(name).items()})
    print(f"{FILE}: {FILE.stat().st_size} bytes")
