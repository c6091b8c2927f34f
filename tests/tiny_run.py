"""A tiny model with Countdown problems, and runs of it: small, but real in every part."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from rlft_jax.config.schema import resolved
from rlft_jax.data.tiny_tokenizer import save_tiny_tokenizer
from rlft_jax.data.tokenizer import load_tokenizer
from rlft_jax.models import convert
from rlft_jax.models.qwen2 import Architecture, Qwen2
from rlft_jax.runs import experiment
from rlft_jax.tasks import countdown
from rlft_jax.training import host_state, manifest, step_folders
from rlft_jax.training.checkpoint import Checkpoints

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ARCHITECTURE = Architecture(
    vocabulary=64,
    width=32,
    layers=1,
    heads=4,
    kv_heads=2,
    head_width=8,
    feed_forward=64,
    rope_theta=10_000.0,
    max_positions=1024,
)


# Two updates of two minibatches share a rollout, which is measured against a reference.
SHARED_ROLLOUT: dict[str, Any] = dict(
    rollout__updates=2,
    rollout__minibatches=2,
    advantages__kl_weight=0.05,
    optimizer__learning_rate=2e-3,
)


class Tiny(NamedTuple):
    """What small runs need.

    Attributes:
        base: A Hugging Face folder of a random model.
        data: Countdown problems of three numbers up to 9, as JSONL.
        reward: The place of a reward that a random model earns some of: the share of digits.
    """

    base: Path
    data: Path
    reward: str

    def sft(self, **changes: Any) -> ConfigDict:
        """Six steps of imitation; `lora__rank=4` sets `config.lora.rank`."""
        return changed(
            dict(
                steps=6,
                model=dict(path=str(self.base)),
                data=dict(path=str(self.data), task="countdown", template="plain"),
                objective=dict(name="sft"),
                optimizer=dict(name="adamw", learning_rate=1e-2, schedule="constant"),
                batch=dict(prompts=8, tokens=64),
                every=dict(save=2),
            ),
            changes,
        )

    def rloo(self, **changes: Any) -> ConfigDict:
        """Six steps of reinforcement."""
        return changed(
            dict(
                steps=6,
                model=dict(path=str(self.base)),
                data=dict(path=str(self.data), task="countdown", template="plain"),
                rollout=dict(responses=4),
                sampling=dict(max_new_tokens=12),
                reward=dict(functions=[(self.reward, 1.0)]),
                objective=dict(name="rloo"),
                optimizer=dict(name="adamw", learning_rate=2e-2, schedule="constant"),
                batch=dict(prompts=8, tokens=64),
                every=dict(save=2, samples=2),
            ),
            changes,
        )


def make(folder: Path) -> Tiny:
    """Writes model, problems and reward."""
    data = write_rows(folder / "problems.jsonl", countdown_rows())
    reward = write_reward(folder / "reward.py")
    return Tiny(write_base(folder / "base"), data, reward)


def write_base(folder: Path, *, seed: int = 0) -> Path:
    """A Hugging Face folder of a random model that has read a few small Countdown problems."""
    folder.mkdir(parents=True)
    rows = countdown_rows()
    texts = [
        text
        for template in ("plain", "tinyzero")
        for row in rows
        for text in (
            str(countdown.problem(row, template=template).prompt),
            countdown.demonstration(row, template=template),
        )
    ]
    save_tiny_tokenizer(texts, folder, size=448)
    (folder / "chat_template.jinja").write_text(CHATML)
    save_random(folder, ARCHITECTURE, seed=seed)
    return folder


def save_random(folder: Path, architecture: Architecture, *, seed: int = 0) -> None:
    """Writes a random model to a folder with a tokenizer, in the place of what was there."""
    tokenizer = load_tokenizer(folder)
    architecture = dataclasses.replace(architecture, vocabulary=-(-tokenizer.vocab_size // 8) * 8)
    model = Qwen2(architecture, rngs=nnx.Rngs(jax.random.key(seed)))
    params = nnx.to_pure_dict(nnx.split(model)[1])
    for left in folder.glob("*.safetensors"):
        left.unlink()
    ends = [tokenizer.eos_id]
    convert.save(
        folder, params, architecture, dtype="float32", stop_ids=ends, pad_id=tokenizer.pad_id
    )


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a JSONL file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_reward(file: Path, before: str = "") -> str:
    """Writes the share of digits as a reward, after doing `before`; returns its place."""
    file.write_text(
        "import os, signal\n"
        "def digits(problems, responses):\n"
        f"    {before or 'pass'}\n"
        "    return [sum(map(str.isdigit, r)) / max(len(r), 1) for r in responses]\n"
    )
    return f"{file}:digits"


def countdown_rows(count: int = 64, *, seed: int = 0) -> list[dict[str, Any]]:
    """Problems of three numbers up to 9."""
    return list(countdown.generate(seed=seed, count=count, numbers=(3,), largest=9))


def changed(sections: dict[str, Any], changes: Mapping[str, Any]) -> ConfigDict:
    """A config of sections, with `lora__rank=4` in the place of `lora.rank`."""
    for name, value in changes.items():
        section, _, setting = name.partition("__")
        if setting:
            sections.setdefault(section, {})[setting] = value
        else:
            sections[section] = value
    return ConfigDict(sections)


def run(config: ConfigDict, workdir: Path) -> Path:
    """Trains; returns the run directory."""
    experiment.run(resolved(config), workdir)
    return workdir


def lines(file: Path) -> list[dict[str, Any]]:
    """What a JSON Lines file holds."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def values(run: Path, metric: str) -> list[Any]:
    """What a run logged of a metric, step by step."""
    return [line[metric] for line in lines(run / "metrics.jsonl") if metric in line]


def saved(run: Path, step: int | None = None) -> dict[str, Any]:
    """All arrays of a run's checkpoint, by path, and where its source was."""
    checkpoints = Checkpoints(run / "checkpoints")
    step = checkpoints.latest() if step is None else step
    assert step is not None
    folder = step_folders.named(run / "checkpoints", step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = {}
    for path, described in manifest.read(folder)["arrays"].items():
        dtype, sizes = re.fullmatch(r"(\w+)\[(.*)\]", described).groups()
        shape = tuple(map(int, filter(None, sizes.split(","))))
        like[path] = jax.ShapeDtypeStruct(shape, dtype, sharding=device)
    arrays = jax.device_get(checkpoints.restore_arrays(step, like))
    return arrays | {"source": host_state.read(folder / "source_0")}


def assert_same_end(actual: Path, expected: Path) -> None:
    """Two runs ended alike: parameters, optimizer, source and metrics, bit for bit."""
    assert (actual / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    ours, theirs = saved(actual), saved(expected)
    assert ours.keys() == theirs.keys()
    assert any(path.startswith("opt_state") for path in ours)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
