"""What is timed where no config says it: a small model with random weights, and texts of numbers.

The default shape is the one that this project's figures beside other stacks are about: 8 rows, or
8 pairs of rows, of 256 tokens; for RLOO 4 completions of 64 tokens to each of 2 prompts of 122.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
from flax import nnx
from ml_collections import ConfigDict

from rlft_jax.bench.flops import QWEN2_5_0_5B
from rlft_jax.data.tiny_tokenizer import save_tiny_tokenizer
from rlft_jax.data.tokenizer import load_tokenizer, stop_ids
from rlft_jax.models import convert
from rlft_jax.models.qwen2 import Architecture, Qwen2

Kind = Literal["sft", "dpo", "reward", "rloo"]

SHAPES = {
    "small": Architecture(
        vocabulary=4096,
        width=256,
        layers=4,
        heads=4,
        kv_heads=2,
        feed_forward=768,
        head_width=64,
        max_positions=2048,
    ),
    "qwen2.5-0.5b": QWEN2_5_0_5B,
}
# Of the tokenizer; the words of texts come on top, a token each.
BYTES = 257
WORDS = 2048
TOKENS, PROMPT = 256, 64
# Tokens that are left for what frames a text, most of it letters that are a token each here.
FRAME = 55
# Of RLOO: tokens of a prompt, tokens that are sampled, and responses to a prompt.
POSED, NEW, RESPONSES = 122, 64, 4
# Steps that the data lasts for before it comes again.
STEPS = 4


def config(kind: Kind, folder: Path) -> ConfigDict:
    """The config of a workload whose files are in `folder`."""
    sections: dict[str, Any] = dict(
        steps=1_000_000,
        model=dict(path=str(folder / "model")),
        data=dict(path=str(folder / "data.jsonl")),
        optimizer=dict(name="adamw", learning_rate=1e-4, schedule="constant"),
        batch=dict(prompts=8, tokens=TOKENS, packed=False),
    )
    sections |= {
        "sft": lambda: dict(objective=dict(name="sft")),
        "dpo": lambda: dict(objective=dict(name="dpo", beta=0.1)),
        "reward": lambda: dict(objective=dict(name="reward_model")),
        "rloo": lambda: dict(objective=dict(name="rloo", preset="trl")),
    }[kind]()
    if kind == "sft":
        sections["data"] |= dict(loss_on="all", too_long="truncate")
    if kind == "dpo":
        sections["data"] |= dict(too_long="truncate")
    if kind == "reward":
        sections["model"] |= dict(parameters="new_head")
        sections["formatter"] = dict(preset="plain", too_long="cut")
        # A row has a pair, which shares its prompt.
        sections["batch"] |= dict(tokens=3 * TOKENS // 2, packed=True)
    if kind == "rloo":
        # A row has a prompt and its responses: each of these repeats the prompt's last token.
        row = POSED + RESPONSES * (NEW + 1)
        sections["batch"] |= dict(prompts=2, tokens=row, packed=True)
        sections["rollout"] = dict(responses=RESPONSES)
        sections["sampling"] = dict(max_new_tokens=NEW)
        sections["advantages"] = dict(kl_weight=0.05)
        sections["reward"] = dict(functions=[(f"{folder / 'reward.py'}:length", 1.0)])
    return ConfigDict(sections)


def write(
    kind: Kind,
    folder: Path,
    shape: Architecture,
    *,
    prompts: int,
    tokens: int,
    new: int,
    seed: int = 0,
) -> None:
    """Writes a workload's model, data and reward.

    Args:
        kind: What learns.
        folder: Where to; it has to be empty.
        shape: Sizes of the model.
        prompts: Rows of a step.
        tokens: What a prompt and its completion fill; for a reward model, a prompt and two.
        new: What is sampled of them, for RLOO.
        seed: Of weights and texts.
    """
    (folder / "model").mkdir(parents=True)
    words = [f"<{number}>" for number in range(min(WORDS, shape.vocabulary - BYTES))]
    save_tiny_tokenizer([], folder / "model", size=BYTES, words=words)
    tokenizer = load_tokenizer(folder / "model")
    model = Qwen2(shape, rngs=nnx.Rngs(jax.random.key(seed)))
    convert.save(
        folder / "model",
        nnx.to_pure_dict(nnx.split(model)[1]),
        shape,
        dtype="bfloat16",
        stop_ids=stop_ids(tokenizer),
        pad_id=tokenizer.pad_id,
    )
    prompt = min(PROMPT, tokens // 2)
    lengths = {
        "sft": (prompt, tokens - prompt),
        "dpo": (prompt, tokens - prompt),
        "reward": (max(tokens // 3 - FRAME, 1), tokens // 3),
        "rloo": (min(POSED, tokens - new), 0),
    }[kind]
    rows = _rows(kind, words, STEPS * prompts, lengths, seed)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(
        "def length(problems, responses):\n    return [float(len(r) % 7) for r in responses]\n"
    )


def _rows(
    kind: Kind, words: list[str], count: int, lengths: tuple[int, int], seed: int
) -> Iterator[dict[str, str]]:
    rng, (prompt, completion) = random.Random(seed), lengths
    text = lambda tokens: "".join(rng.choices(words, k=tokens))
    for _ in range(count):
        posed = {"prompt": text(prompt)}
        if kind == "rloo":
            yield posed
        elif kind == "sft":
            yield posed | {"completion": text(completion)}
        else:
            yield posed | {"chosen": text(completion), "rejected": text(completion)}
