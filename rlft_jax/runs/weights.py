"""The parameters that a run starts from: what trains, what is frozen, what is measured against."""

import functools

import jax

from rlft_jax.config.derived import needs_reference
from rlft_jax.models import peft
from rlft_jax.models.digest import digest
from rlft_jax.runs import learned_rewards, loading, reward_models
from rlft_jax.runs.plan import Plan
from rlft_jax.runs.reward_models import RewardOrigin
from rlft_jax.training.step import Params, TrainState, init_state


def load_state(plan: Plan) -> TrainState:
    """The state before the first step."""
    section, model = plan.config["lora"], plan.config["model"]
    if isinstance(plan.origin, RewardOrigin):
        how = {"parameters": model["parameters"], "seed": plan.config["seed"]}
        params = reward_models.load(plan.origin, shardings=plan.whole_where, **how)
    elif section is None:
        params = _checkpoint(plan, model["path"])
    elif section["path"] is not None:
        _, params = peft.load(section["path"], plan.policy.architecture)
    else:
        settings = loading.adapter_settings(section, plan.policy.architecture)
        params = loading.new_adapter(plan.policy.architecture, settings, plan.config["seed"])
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


def load_rewards(plan: Plan) -> tuple[Plan, dict[str, str | None]]:
    """The plan with its reward models at work, and the digests of their parameters."""
    if plan.reward is None:
        return plan, {}
    params = {name: scorer.load() for name, scorer in plan.scorers.items()}
    learned = {
        name: learned_rewards.reward_of(name, scorer, params[name])
        for name, scorer in plan.scorers.items()
    }
    digests = {f"reward.models.{name}": digest(params[name]) for name in params}
    return plan._replace(reward=plan.reward.with_rewards(learned)), digests


def _checkpoint(plan: Plan, path: str) -> Params:
    """A checkpoint on the mesh; it must have the plan's architecture."""
    origin = plan.policy
    if path != plan.config["model"]["path"]:
        origin = loading.find(path)
    if origin.architecture != plan.policy.architecture:
        raise ValueError(
            f"{path} is {origin.architecture}, but config.model.path is"
            f" {plan.policy.architecture}. Name a checkpoint of the same architecture."
        )
    return loading.load(origin, shardings=plan.whole_where).params
