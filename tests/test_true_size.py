"""The shape of Qwen2.5-0.5B itself goes through the commands, on a machine without accelerator."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlft_jax.bench.flops import QWEN2_5_0_5B
from rlft_jax.data.tiny_tokenizer import save_tiny_tokenizer
from rlft_jax.models import safetensors_files
from tests import tiny_run
from tests.models.checkpoints import write_random

PARAMETERS = 494_032_768
GIB = 2**30


def rlft(*words: str) -> None:
    """Runs a command in a process of its own, so that its memory can be told."""
    command = [sys.executable, "-c", "from rlft_jax.main import run; raise SystemExit(run())"]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr


def stored(folder: Path) -> dict[str, np.ndarray]:
    """The bits of every bfloat16 tensor, left on the disk until they are asked for."""
    return {
        name: np.memmap(tensor.file, np.uint16, "r", tensor.start, tensor.shape)
        for name, tensor in safetensors_files.read_folder(folder).items()
    }


@pytest.mark.slow
def test_the_half_billion_shape_is_imported_trained_a_step_exported_and_read_again(tmp_path):
    base, rows = tmp_path / "base", tmp_path / "rows.jsonl"
    base.mkdir()
    write_random(base, QWEN2_5_0_5B)
    row = {"prompt": "Count: ", "completion": " ".join(map(str, range(70)))}
    save_tiny_tokenizer([row["prompt"], row["completion"]], base, size=300)
    tiny_run.write_rows(rows, [row])
    config = tmp_path / "config.py"
    sections = dict(
        steps=1,
        model=dict(path=str(base), remat="full"),
        data=dict(path=str(rows)),
        objective=dict(name="sft"),
        optimizer=dict(name="adamw", learning_rate=1e-3),
        batch=dict(prompts=1, tokens=256),
    )
    config.write_text(f"def get_config():\n    return {sections!r}\n")

    rlft("train", f"--config={config}", f"--workdir={tmp_path}/run")
    (metrics,) = tiny_run.lines(tmp_path / "run/metrics.jsonl")
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
    assert 190 < metrics["num_tokens"] <= 256

    out = tmp_path / "out"
    rlft("export", f"--run={tmp_path}/run", f"--out={out}")
    before, after = stored(base), stored(out)
    assert {n: x.shape for n, x in after.items()} == {n: x.shape for n, x in before.items()}
    assert sum(x.size for x in after.values()) == PARAMETERS
    for name in ("model.norm.weight", "model.layers.23.mlp.down_proj.weight"):
        assert (after[name] != before[name]).any(), name

    scored = tmp_path / "scored.jsonl"
    rlft("logprobs", f"--model={out}", f"--data={rows}", f"--out={scored}")
    (line,) = map(json.loads, scored.read_text().splitlines())
    assert np.mean(line["logprobs"]) > -metrics["loss"]  # it learned what it was shown
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"the most memory of a command: {largest / GIB:.1f} GiB")
    assert largest < 20 * GIB, f"a command took {largest / GIB:.1f} GiB"
