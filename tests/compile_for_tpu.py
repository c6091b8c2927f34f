"""Compiles a train step for TPUs on a machine that has none; needs libtpu (`pip install libtpu`).

    python -m tests.compile_for_tpu v5e:2x2 --rows=16 --tokens=2048

It proves that the step compiles, kernels included, and what memory it takes; it says nothing of
speed. Prints one line of JSON.
"""

import argparse
import dataclasses
import functools
import json
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # ask no cloud which TPU this is
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip that could be in use

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlft_jax.batch import Batch
from rlft_jax.bench.flops import QWEN2_5_0_5B
from rlft_jax.models.on_mesh import on_mesh
from rlft_jax.models.qwen2 import Architecture, Compute
from rlft_jax.objectives import sft
from rlft_jax.runs.loading import structure
from rlft_jax.training.optimizer import adamw
from rlft_jax.training.sharding import ROWS, replicated, shardings
from rlft_jax.training.step import init_state, train_step


def compiled(
    topology: str, architecture: Architecture, compute: Compute, rows: int, tokens: int, tensor: int
) -> jax.stages.Compiled:
    """A supervised step on packed rows, compiled for all chips of a topology."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    mesh = Mesh(
        np.array(devices).reshape(1, -1, tensor),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
    )
    optimizer, model = adamw(100), structure(architecture, compute)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), model.params)
    where = shardings(state, mesh)
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    of_rows = lambda dtype: jax.ShapeDtypeStruct(
        (1, rows, tokens), dtype, sharding=NamedSharding(mesh, P(None, ROWS))
    )
    batch = Batch(
        *(of_rows(jnp.int32),) * 3,
        is_response=of_rows(jnp.bool_),
        is_real=jax.ShapeDtypeStruct((1, 4 * rows, 1), jnp.bool_, sharding=replicated(mesh)),
    )
    step = functools.partial(
        train_step, graph=model.graph, objective=sft.objective, optimizer=optimizer, seed=0
    )
    jitted = jax.jit(
        on_mesh(mesh, step),
        out_shardings=(where, replicated(mesh)),
        donate_argnums=0,
    )
    traced = jitted.trace(jax.tree.map(place, state, where), {}, batch)
    return traced.lower(lowering_platforms=("tpu",)).compile()


def main() -> None:
    """Compiles what the command line says, and tells what it takes."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("topology", help="such as v5e:2x2, v5p:2x2x1 or v6e:2x2")
    flags.add_argument("--rows", type=int, default=16)
    flags.add_argument("--tokens", type=int, default=2048)
    flags.add_argument("--tensor", type=int, default=1)
    flags.add_argument("--layers", type=int, default=QWEN2_5_0_5B.layers)
    flags.add_argument("--attention", default="splash")
    flags.add_argument("--remat", default="full")
    given = flags.parse_args()
    compute = Compute(
        dtype="bfloat16",
        unroll=1,  # what is left out suits this machine
        head_chunk=2048,
        attention=given.attention,
        remat=given.remat,
    )
    architecture = dataclasses.replace(QWEN2_5_0_5B, layers=given.layers)
    begun = time.monotonic()
    program = compiled(
        given.topology, architecture, compute, given.rows, given.tokens, given.tensor
    )
    memory, text = program.memory_analysis(), program.as_text()
    print(
        json.dumps(
            {
                **vars(given),
                "seconds": round(time.monotonic() - begun, 1),
                "argument_gib": round(memory.argument_size_in_bytes / 2**30, 2),
                "temporary_gib": round(memory.temp_size_in_bytes / 2**30, 2),
                "kernels": text.count("tpu_custom_call"),
                "squares": text.count(f"{given.tokens},{given.tokens}]"),
            }
        )
    )


if __name__ == "__main__":
    main()
