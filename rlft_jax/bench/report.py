"""A benchmark's figures for people."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from rlft_jax.bench.ceilings import Ceilings
from rlft_jax.progress import table
from rlft_jax.training.memory import readable
from rlft_jax.training.run_directory import versions

FORMULA = (
    "Model FLOPs: 2 a parameter of a matrix and token, the head's for tokens that bear the loss,"
    " and 2 x layers x heads x head width x T^2 a text for attention, which is causal and counted"
    " once; all times three to train, or two with adapters, plus a reference's pass and what is"
    " sampled, where there are any. What is computed again does not count."
    " Utilisation is of the matrix product measured here, in the type that the model computes in."
)


def machine(ceilings: Ceilings | None) -> dict[str, Any]:
    """What it ran on."""
    devices = jax.devices()
    found: dict[str, Any] = {
        "platform": jax.default_backend(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processor": _processor(),
        "versions": versions(),
    }
    if ceilings is not None:
        found["ceilings"] = {
            "float32_flops_per_second": ceilings.float32,
            "bfloat16_flops_per_second": ceilings.bfloat16,
            "bytes_per_second": ceilings.bandwidth,
        }
    return found


def show(what: str, workload: str, found: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Prints the figures, and what they were measured on, as a table."""
    shown = dict(found)
    if len(shown.get("by_rows", {})) == 1:  # they are the summary
        del shown["by_rows"]
    shown |= {name: here[name] for name in ("devices", "processor", "ceilings") if name in here}
    rows = [(name, _worded(name, value)) for name, value in _flat(shown).items()]
    caption = FORMULA if "model_flops_utilisation" in found else ""
    table(f"rlft bench --what={what}: {workload}", ["", "value"], rows, caption=caption)


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _flat(found: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _worded(name: str, value: Any) -> str:
    """A value with what its name says of its unit.

    >>> _worded("padding_waste", 0.125), _worded("peak_bytes", 2048), _worded("step_seconds", 0.25)
    ('12.5%', '2.0 KiB', '250.0 ms')
    """
    if value is None:
        return "not told"
    if isinstance(value, str):
        return value
    if "bytes_per_second" in name:
        return f"{value / 1e9:.2f} GB/s"
    if "flops_per_second" in name:
        return f"{value / 1e12:.3f} TFLOP/s"
    if "bytes" in name:
        return readable(round(value))
    if "seconds" in name and "per_second" not in name:
        return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"
    if name.endswith(("utilisation", "share", "waste")):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
