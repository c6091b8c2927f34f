"""The other processes of a run: joining them, and failing together."""

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Shaped

from rlft_jax.metrics import Metrics, merged

Result = TypeVar("Result")

VARIABLES = ("RLFT_COORDINATOR", "RLFT_PROCESSES", "RLFT_PROCESS_ID")


def initialize_from_environment(environment: Mapping[str, str] = os.environ) -> bool:
    """Joins the processes that `launch/local.py` or a cluster's script started.

    Call it before anything asks jax for a device.

    Args:
        environment: RLFT_COORDINATOR is host:port of process 0, RLFT_PROCESSES how many there
            are, and RLFT_PROCESS_ID which of them this is, from 0.

    Returns:
        Whether there are others; without these variables a process is on its own.

    Raises:
        ValueError: If the variables are incomplete or make no sense.
    """
    given = {name: environment.get(name, "") for name in VARIABLES}
    if not any(given.values()):
        return False
    coordinator, processes, process = given.values()
    _, _, port = coordinator.rpartition(":")
    wrong = [
        *(f"{name} is not set." for name, value in given.items() if not value),
        *(
            f"{name} = {given[name]} is not a number."
            for name in VARIABLES[1:]
            if given[name] and not given[name].isdecimal()
        ),
    ]
    if coordinator and not port.isdecimal():
        wrong.append(f"RLFT_COORDINATOR = {coordinator} is not host:port.")
    if not wrong and int(process) >= int(processes):
        wrong.append(f"RLFT_PROCESS_ID = {process} is not below RLFT_PROCESSES = {processes}.")
    if wrong:
        raise ValueError(
            "This process cannot join others:\n- "
            + "\n- ".join(wrong)
            + f"\nSet all of {', '.join(VARIABLES)}, or none; launch/local.py does."
        )
    jax.distributed.initialize(coordinator, int(processes), int(process))
    return int(processes) > 1


def together(act: Callable[[], Result], error: type[Exception]) -> Result:
    """Returns what `act` gives here, or raises everywhere if it raises an error on one process.

    All call it together. So none waits for another that has given up, and all can save.
    """
    if jax.process_count() == 1:
        return act()
    results, failure = [], None
    try:
        results.append(act())
    except error as caught:
        failure = caught
    if multihost_utils.process_allgather(np.array(failure is not None)).any():
        raise failure or error("This failed in another process, which says how.")
    return results[0]


def gathered_everywhere(values: Shaped[np.ndarray, "B *rest"]) -> Shaped[np.ndarray, "all *rest"]:
    """The values of all processes, one after the other along the first axis, bit for bit."""
    if jax.process_count() == 1:
        return values
    # As bytes, because JAX would round float64 to float32.
    sent = np.ascontiguousarray(values).view(np.uint8)
    received = np.asarray(multihost_utils.process_allgather(sent))
    return received.view(values.dtype).reshape(-1, *values.shape[1:])


def over_processes(metrics: Metrics) -> Metrics:
    """Puts together what processes measured apart; all call it together."""
    if jax.process_count() == 1:
        return metrics
    return merged(multihost_utils.process_allgather(metrics))
