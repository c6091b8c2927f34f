"""How much memory a conversion takes, in processes of their own."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlft_jax.models import convert, safetensors_files
from rlft_jax.models.convert_config import read_architecture
from tests.models.checkpoints import write_random
from tests.models.qwen2_models import TINY

MEASURE = """
import sys
from pathlib import Path
import jax
from rlft_jax.models import convert

def memory(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))

def growth(function):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    result = function()
    return memory("VmHWM") - before, result

jax.numpy.zeros(1).block_until_ready()
source = Path(sys.argv[1])
grown, params = growth(lambda: convert.load(source))
print(grown, sum(x.nbytes for x in jax.tree.leaves(params)))
if len(sys.argv) > 2:
    architecture, out = convert.read_architecture(source), Path(sys.argv[2])
    print(growth(lambda: convert.save(out, params, architecture, source=source))[0])
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def measure(*arguments: Path) -> list[int]:
    """What a process of its own prints: peak growth and size of a load, growth of a save."""
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def test_loading_needs_one_stacked_parameter_beyond_the_model(tmp_path):
    architecture = dataclasses.replace(
        TINY, vocabulary=4096, width=512, feed_forward=1024, heads=8, head_width=64, layers=12
    )
    write_random(tmp_path, architecture)
    entries = convert.entries(architecture).values()
    largest = 4 * max(int(np.prod(entry.stacked_shape)) for entry in entries)
    grown, size = measure(tmp_path)
    assert size > 4 * largest
    assert grown < size + largest + 2 * safetensors_files.BLOCK_BYTES


@pytest.mark.slow
def test_the_true_half_billion_shape_goes_in_and_out_unchanged(shared_data, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    config = shared_data / "tokenizers/qwen2.5/config.qwen2.5-0.5b.instruct.json"
    (source / "config.json").write_text(config.read_text())
    architecture = read_architecture(source)
    write_random(source, architecture)
    grown, size, grown_by_saving = measure(source, out)
    assert size == 4 * 494_032_768
    embedding = 4 * 151_936 * 896
    print(f"load grew {grown / 2**20:.0f} MiB, model {size / 2**20:.0f} MiB")
    print(f"save grew {grown_by_saving / 2**20:.0f} MiB")
    assert grown < size + embedding + (64 << 20)
    assert grown_by_saving < embedding
    theirs, ours = (safetensors_files.read_folder(folder) for folder in (source, out))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape
        assert span(ours[name]) == span(tensor), name


def span(tensor: safetensors_files.Stored) -> bytes:
    """The stored bytes of a bfloat16 tensor."""
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        return file.read(2 * int(np.prod(tensor.shape)))
