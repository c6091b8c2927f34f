"""`rlft env`: what a bug report has to say about an installation and its machine."""

import importlib.metadata
import os
import pathlib
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax

import rlft_jax
from rlft_jax.models.attention import chosen

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "datasets", "transformers"),
    *("tokenizers", "safetensors", "ml-collections", "numpy"),
)
EXTRAS = ("torch", "trl", "peft", "wandb")
VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "HF_HOME", "HF_HUB_OFFLINE")

GIB = 2**30


def env() -> None:
    """Tells versions, devices and folders, for a bug report."""
    for name, value in facts():
        print(f"{name:<18}{value}")


def facts() -> Iterator[tuple[str, str]]:
    """Yields what there is to know, name by name."""
    yield "rlft_jax", f"{rlft_jax.__version__} in {pathlib.Path(rlft_jax.__file__).parent}"
    yield "python", f"{platform.python_version()} in {sys.prefix}"
    for package in PACKAGES:
        yield package, _version(package) or "missing; install rlft_jax again"
    for package in EXTRAS:
        yield package, _version(package) or "not installed (optional)"
    yield "system", platform.platform()
    yield "cores", str(os.cpu_count())
    yield "memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"
    for device, count in Counter(map(_describe, jax.devices())).items():
        yield "devices", f"{count} x {device}"
    yield "backend", jax.default_backend()
    for dtype in ("float32", "bfloat16"):
        yield "attention", f"{dtype}: {' or '.join(_attentions(dtype))}"
    yield "compiled programs", os.environ.get("JAX_COMPILATION_CACHE_DIR") or "not kept"
    for variable in VARIABLES:
        if variable in os.environ:
            yield variable, os.environ[variable]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _attentions(dtype: str) -> list[str]:
    """The forms that "auto" stands for, over short rows and over long ones."""
    lengths = (1, 1 << 20)
    return list(dict.fromkeys(chosen("auto", dtype=dtype, tokens=tokens) for tokens in lengths))


def _describe(device: Any) -> str:
    memory = (device.memory_stats() or {}).get("bytes_limit")  # None on CPUs
    return device.device_kind + (f", {memory / GIB:.1f} GiB" if memory else "")
