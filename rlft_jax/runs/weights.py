"""The parameters that a run starts from: what trains, what is frozen, what is measured against."""

import functools
from typing import Any

import jax

from rlft_jax.config.checks import needs_reference
from rlft_jax.models import peft
from rlft_jax.runs import loading
from rlft_jax.runs.plan import Plan
from rlft_jax.training.step import Params, TrainState, init_state


def load_state(plan: Plan) -> TrainState:
    """The state before the first step."""
    section = plan.config["lora"]
    if section is None:
        params = _checkpoint(plan, plan.config["model"]["path"])
    elif section["path"] is not None:
        _, params = peft.load(section["path"], plan.origin.architecture)
    else:
        settings = loading.adapter_settings(section, plan.origin.architecture)
        params = loading.new_adapter(plan.origin.architecture, settings, plan.config["seed"])
    init = functools.partial(init_state, optimizer=plan.optimizer)
    params = jax.device_put(params, plan.where.params)
    return jax.jit(init, out_shardings=plan.where, donate_argnums=0)(params)


def load_frozen(plan: Plan) -> Params:
    """What does not train: the base under adapters, else nothing."""
    if plan.config["lora"] is None:
        return {}
    return _checkpoint(plan, plan.config["model"]["path"])


def load_reference(plan: Plan, frozen: Params) -> Params | None:
    """The reference policy, if one is needed: the base under adapters, otherwise a copy."""
    if not needs_reference(plan.config):
        return None
    path = plan.config["reference"] or plan.config["model"]["path"]
    return frozen or _checkpoint(plan, path)


def _checkpoint(plan: Plan, path: str) -> Params:
    """A checkpoint on the mesh; it must have the plan's architecture."""
    origin: Any = plan.origin
    if path != plan.config["model"]["path"]:
        origin = loading.find(path)
    if origin.architecture != plan.origin.architecture:
        raise ValueError(
            f"{path} is {origin.architecture}, but config.model.path is"
            f" {plan.origin.architecture}. Name a checkpoint of the same architecture."
        )
    return loading.load(origin, shardings=plan.whole_where).params
