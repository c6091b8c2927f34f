"""What commands ask of a policy."""

from typing import Literal

from rlft_jax.config.settings import settings_of
from rlft_jax.runs.loading import Origin, read_config
from rlft_jax.tasks import TASKS

Dtype = Literal["float32", "bfloat16"]


def template_of(origin: Origin, task: str) -> str:
    """Returns how to pose a task's problems to a model: as it was trained, or the task's way.

    Only a run of the same task knows how the model was trained.
    """
    if origin.run is not None:
        data = read_config(origin.run).get("data") or {}
        if data.get("task") == task and data.get("template"):
            return data["template"]
    return settings_of(TASKS[task].problem)["template"].default
