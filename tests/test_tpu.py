"""Attention's kernels, and a train step of the 0.5B shape, compile for TPUs; nothing runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlft_jax.models import attention
from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.training.sharding import ROWS

# Of a chip's memory, in GiB.
MEMORY = {"v5e:2x2": 16, "v5p:2x2x1": 95, "v6e:2x2": 32}
COLLECTIVES = ("all-gather(", "all-reduce(", "all-to-all(", "collective-permute(")
# Heads of queries and of keys, their width, and tokens: the 0.5B shape's, and an uneven one.
SHAPES = [(14, 2, 64, 1024), (12, 2, 128, 1000)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs libtpu, the compiler for TPUs: pip install libtpu",
    ),
]


@pytest.mark.parametrize("topology", MEMORY)
def test_each_chip_attends_over_its_own_rows_and_heads(topology, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # ask no cloud which TPU this is
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip that could be in use
    chips = np.array(topologies.get_topology_desc(topology, platform="tpu").devices)
    mesh = Mesh(chips.reshape(1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

    def total(q, k, v, ids):
        form = attention.attention("splash", ids, shape=ids.shape, dtype="bfloat16")
        return form(q, k, v).astype(jnp.float32).sum()

    gradient = jax.jit(on_mesh(mesh, jax.grad(total, (0, 1, 2))))
    for N, K, H, T in SHAPES:
        place = lambda *spec: NamedSharding(mesh, P(*spec))
        spread = place(ROWS, None, "tensor")
        operand = lambda heads, T=T, H=H, spread=spread: jax.ShapeDtypeStruct(
            (8, T, heads, H), jnp.bfloat16, sharding=spread
        )
        ids = jax.ShapeDtypeStruct((8, T), jnp.int32, sharding=place(ROWS))
        traced = gradient.trace(operand(N), operand(K), operand(K), ids)
        text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
        # Forward, and backward for queries and for keys and values.
        assert text.count("tpu_custom_call") == 3
        assert not [name for name in COLLECTIVES if name in text]


@pytest.mark.parametrize("topology", MEMORY)
def test_a_step_compiles_with_its_kernels_and_fits(topology):
    command = [sys.executable, "-m", "tests.compile_for_tpu", topology, "--rows=16"]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kernels"] >= 3
    assert found["squares"] == 0
    assert found["argument_gib"] + found["temporary_gib"] < MEMORY[topology]
