"""A tiny model with Countdown problems, and runs of it: small enough for a test, real in every part."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from rlft_jax import experiment
from rlft_jax.data.tokenizer import load_tokenizer
from rlft_jax.data.tiny_tokenizer import save_tiny_tokenizer
from rlft_jax.models import convert
from rlft_jax.models.qwen2 import Architecture, Qwen2
from rlft_jax.schema import resolved
from rlft_jax.tasks import countdown

ARCHITECTURE = Architecture(
    vocabulary=64,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    feed_forward=64,
    rope_theta=10_000.0,
    max_positions=256,
)


def write_base(folder: Path, *, seed: int = 0) -> Path:
    """A Hugging Face folder of a random model that knows bytes and little more."""
    folder.mkdir(parents=True)
    save_tiny_tokenizer(["1,2,3=4:5+6=7;<answer>(8+9)-0</answer>"] * 2, folder, size=272)
    save_random(folder, ARCHITECTURE, seed=seed)
    return folder


def save_random(folder: Path, architecture: Architecture, *, seed: int = 0) -> None:
    """Adds a random model to a folder with a tokenizer."""
    tokenizer = load_tokenizer(folder)
    architecture = dataclasses.replace(architecture, vocabulary=-(-tokenizer.vocab_size // 8) * 8)
    model = Qwen2(architecture, rngs=nnx.Rngs(jax.random.key(seed)))
    params = nnx.to_pure_dict(nnx.split(model)[1])
    convert.save(
        folder,
        params,
        architecture,
        dtype="float32",
        stop_ids=[tokenizer.eos_id],
        pad_id=tokenizer.pad_id,
    )


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a JSONL file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def countdown_rows(count: int = 64, *, seed: int = 0) -> list[dict[str, Any]]:
    """Problems of three numbers up to 9."""
    return list(countdown.generate(seed=seed, count=count, numbers=(3,), largest=9))


def sft(base: Path, data: Path, **changes: Any) -> ConfigDict:
    """Six steps of imitation. `changes` are settings by dotted name, with two underscores."""
    return _changed(
        dict(
            steps=6,
            model=dict(path=str(base)),
            data=dict(path=str(data), task="countdown", template="plain"),
            objective=dict(name="sft"),
            optimizer=dict(name="adamw", learning_rate=1e-2, schedule="linear", warmup_steps=2),
            batch=dict(prompts=8, tokens=64),
            every=dict(save=2, samples=2),
        ),
        changes,
    )


def rloo(base: Path, data: Path, **changes: Any) -> ConfigDict:
    """Six steps of reinforcement."""
    return _changed(
        dict(
            steps=6,
            model=dict(path=str(base)),
            data=dict(path=str(data), task="countdown", template="plain"),
            rollout=dict(responses=2),
            sampling=dict(max_new_tokens=12),
            objective=dict(name="rloo"),
            optimizer=dict(name="adamw", learning_rate=1e-2, schedule="linear"),
            batch=dict(prompts=8, tokens=64),
            every=dict(save=2, samples=2),
        ),
        changes,
    )


def run(config: ConfigDict, workdir: Path) -> Path:
    """Trains; returns the run directory."""
    experiment.run(resolved(config), workdir)
    return workdir


def lines(file: Path) -> list[dict[str, Any]]:
    """What a JSON Lines file holds."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def tree_of(model: Any) -> dict[str, np.ndarray]:
    """Leaves of a tree by their path, on the host."""
    leaves = jax.tree.leaves_with_path(jax.device_get(model))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _changed(sections: dict[str, Any], changes: Mapping[str, Any]) -> ConfigDict:
    """The sections, with `lora__rank=4` in the place of `lora.rank`."""
    for name, value in changes.items():
        section, _, setting = name.partition("__")
        if setting:
            sections.setdefault(section, {})[setting] = value
        else:
            sections[section] = value
    return ConfigDict(sections)
