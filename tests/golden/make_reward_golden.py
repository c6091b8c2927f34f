"""Makes reward.npz: tiny scoring models with the scores and gradients that transformers gives them.

    python -m tests.golden.make_reward_golden

Needs torch. Every model's arrays are prefixed with its name; tensors have Hugging Face's names.
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.models.reward_models import ONE_OF_EACH, cotangent, exported, texts
from tests.models.torch_rewards import reference

FILE = Path(__file__).with_name("reward.npz")


def golden(name: str) -> dict[str, np.ndarray]:
    """One model's inputs, weights, scores and gradients."""
    data = texts(ONE_OF_EACH[name])
    with tempfile.TemporaryDirectory() as folder:
        exported(Path(folder), ONE_OF_EACH[name])
        scores, gradients = reference(Path(folder), data, cotangent(data))
        files = {
            f"file/{file}": np.frombuffer((Path(folder) / file).read_bytes(), np.uint8)
            for file in ("model.safetensors", "config.json")
        }
    arrays = {"tokens": data.tokens, "types": data.types, "lengths": data.lengths}
    arrays |= {"cotangent": cotangent(data), "scores": scores, **files}
    arrays |= {f"gradient/{key}": value for key, value in gradients.items()}
    return {f"{name}/{key}": value for key, value in arrays.items()}


if __name__ == "__main__":
    np.savez_compressed(FILE, **{k: v for name in ONE_OF_EACH for k, v in golden(name).items()})
    print(f"{FILE}: {FILE.stat().st_size} bytes")
