"""Eight simulated devices, run-time shape checks, and fixtures that many tests share."""

import os
import pathlib

# Before jax wakes up: simulated devices, and no threads that outlive a test.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest

# Shapes in signatures are checked at run time, but only while testing.
jaxtyping.install_import_hook("rlft_jax", "beartype.beartype").__enter__()

import jax  # noqa: E402 - after the hook

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real data and tokenizers; tests that need it skip where it is not at hand."""
    repository = pathlib.Path(__file__).parents[1]
    folder = pathlib.Path(os.environ.get("RLFT_SHARED_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets; no folder {folder.name!r} beside the repository")
    return folder


@pytest.fixture(scope="session")
def one_device() -> jax.sharding.Mesh:
    """A mesh of the first device alone, to compare with what all of them do."""
    axes = ("data", "fsdp", "tensor")
    types = (jax.sharding.AxisType.Auto,) * 3
    return jax.make_mesh((1, 1, 1), axes, axis_types=types, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def tiny_parts(tmp_path_factory):
    """A tiny model, problems and a reward; `tiny` is what tests ask for."""
    from tests import tiny_run

    return tiny_run.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny(tiny_parts, tmp_path_factory):
    """What small runs need (`tests.tiny_run.Tiny`), in a module that compiles nothing twice."""
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield tiny_parts
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
