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

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real data and tokenizers; tests that need it skip where it is not at hand."""
    repository = pathlib.Path(__file__).parents[1]
    folder = pathlib.Path(os.environ.get("RLFT_SHARED_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets; no folder {folder.name!r} beside the repository")
    return folder
