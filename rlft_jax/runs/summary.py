"""What a run says before its first step: what it learns from, and what it takes of memory."""

import jax
import jax.numpy as jnp

from rlft_jax.config.derived import group_size, needs_reference
from rlft_jax.models import attention, qwen2
from rlft_jax.runs import learned_rewards
from rlft_jax.runs.plan import Config, Plan
from rlft_jax.sampling.cache import token_bytes
from rlft_jax.training import memory
from rlft_jax.training.sharding import replicated

UNITS = {"sft": "examples", "dpo": "pairs", "reward_model": "pairs"}


def summary(plan: Plan, begun: int) -> str:
    """What is about to happen after step `begun`, and about how much memory it takes."""
    data, needed = plan.data.report, memory_of(plan)
    kinds = ", ".join(f"{kind} {memory.readable(size)}" for kind, size in needed.items())
    losses = [f"{count} dropped that {why}" for why, count in data.losses.items() if count]
    unit = unit_of(plan.config)
    kept = ", ".join([f"{data.kept} {unit} kept, {data.truncated} of them cut", *losses])
    return "\n".join(
        [
            f"{'Going on after step ' + str(begun) if begun else 'Training'} for"
            f" {plan.steps - begun} steps on {plan.mesh.size} device(s):"
            f" {', '.join(f'{axis} {size}' for axis, size in plan.mesh.shape.items())}.",
            f"Data: {kept}; {len(plan.data.heldout)} held out.",
            *attention_of(plan),
            *(learned_rewards.described(name, scorer) for name, scorer in plan.scorers.items()),
            f"Memory of a device, by estimate: {memory.readable(sum(needed.values()))} ({kinds}).",
        ]
    )


def attention_of(plan: Plan) -> list[str]:
    """How tokens attend to each other, in a decoder; encoders have one way."""
    if not isinstance(plan.origin.architecture, qwen2.Architecture):
        return []
    compute, tokens = plan.base.compute, plan.config["batch"]["tokens"]
    form = attention.described(compute.attention, dtype=compute.dtype, tokens=tokens)
    return [form, *["Responses that share a row share their prompt."] * plan.shares_prompts]


def memory_of(plan: Plan) -> dict[str, int]:
    """Bytes of each device by what they are for. An estimate: what a compiler adds is not known."""
    config, rows = plan.config, plan.config["batch"]
    needed = memory.state_bytes(plan.shapes, plan.where)
    whole = memory.parameter_bytes(plan.base.params, plan.whole_where)
    if config["lora"] is not None:
        needed["frozen base"] = whole
    elif needs_reference(config) and not config["cache_reference"]:
        needed["reference"] = whole
    responses = rows["prompts"] // rows["micro_batches"] // jax.process_count()
    needed |= memory.activation_bytes(
        plan.origin.architecture,
        plan.base.compute,
        plan.mesh,
        responses=responses * group_size(config),
        tokens=rows["tokens"],
        has_logits=config["objective"]["name"] != "reward_model",
    )
    if plan.scorers:
        needed["reward models"] = sum(
            memory.parameter_bytes(scorer.structure.params, scorer.where)
            for scorer in plan.scorers.values()
        )
    return needed | (rollout_memory(plan) if plan.is_rl else {})


def rollout_memory(plan: Plan) -> dict[str, int]:
    """Bytes of each device that sampling takes; every device has all weights and some rows."""
    config, a = plan.config, plan.policy.architecture
    sampling = config["sampling"]
    dtype = sampling["dtype"] or plan.base.compute.dtype
    cast = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), plan.base.params)
    everywhere = jax.tree.map(lambda _: replicated(plan.mesh), cast)
    batch, rollout = config["batch"], config["rollout"]
    prompts = batch["prompts"] * rollout["minibatches"] // jax.process_count()
    rows = min(prompts * rollout["responses"], sampling["batch_rows"])
    rows = -(-rows // jax.local_device_count())
    token = token_bytes(a, sampling["cache_dtype"], width=jnp.dtype(dtype).itemsize)
    return {
        "sampler's weights": memory.parameter_bytes(cast, everywhere),
        "cache": rows * batch["tokens"] * token,
        "sampler's logits": memory.decoding_bytes(a, rows=rows),
    }


def unit_of(config: Config) -> str:
    """What a run's data is counted in."""
    if config["objective"].get("loss") == "regression":
        return "texts"
    return "problems" if config["rollout"] else UNITS[config["objective"]["name"]]
