"""Settings without effect: those that do nothing in some runs are refused there."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rlft_jax.config.derived import (
    answers,
    at,
    group_size,
    is_rl,
    needs_old,
    needs_reference,
    reward_weights,
    weighs_importance,
)
from rlft_jax.data import row_forms

# Gives the value that a dotted setting has where nobody wrote it.
Default = Callable[[str], Any]


class Idle(NamedTuple):
    """Settings that do nothing in some runs, and when."""

    settings: tuple[str, ...]
    when: Callable[[dict[str, Any]], Any]
    why: str


ADAPTER = ("lora.rank", "lora.alpha", "lora.dropout", "lora.rslora", "lora.targets")
CLIPS = ("clip_low", "clip_high", "dual_clip", "log_ratio_limit")
DRAWS = ("evaluation.top_p", "evaluation.top_k")
ANSWERS = ("evaluation.max_new_tokens", "evaluation.temperature", *DRAWS)
IDLE = [
    Idle(
        ("data.heldout_split",),
        lambda c: not c["data"]["heldout_path"],
        "without config.data.heldout_path",
    ),
    Idle(
        ("data.template",),
        lambda c: (
            at(c, "data.task") is None
            and not c["data"]["mixture"]
            and at(c, "data.template") != row_forms.CHAT
        ),
        "without config.data.task, where only 'chat' has",
    ),
    Idle(
        ("data.turns",),
        lambda c: at(c, "data.task") is not None,
        "with config.data.task, which makes prompts itself",
    ),
    Idle(
        ("every.evaluate_first", "evaluation.limit", "evaluation.samples", *ANSWERS),
        lambda c: not c["every"]["evaluate"],
        "while config.every.evaluate is 0",
    ),
    Idle(
        ("data.heldout_path",),
        # Where prompts are kept apart, it decides what is trained on, too.
        lambda c: not c["every"]["evaluate"] and "shared_prompts" not in c["data"],
        "while config.every.evaluate is 0",
    ),
    Idle(
        ANSWERS,
        lambda c: c["every"]["evaluate"] and not answers(c),
        "while config.evaluation.samples is 0",
    ),
    Idle(
        DRAWS,
        lambda c: c["every"]["evaluate"] and not c["evaluation"]["temperature"],
        "while config.evaluation.temperature is 0, which takes the likeliest token",
    ),
    Idle(
        ("keep.metric",),
        lambda c: not c["keep"]["best"] and not c["stop"]["patience"],
        "without config.keep.best or config.stop.patience",
    ),
    Idle(
        ("batch.share_prompts",),
        lambda c: not c["batch"]["packed"] or group_size(c) == 1,
        "where no two responses to a prompt share a row",
    ),
    Idle(("every.samples", "stop.watch"), lambda c: not is_rl(c), "where nothing is sampled"),
    Idle(("stop.window",), lambda c: c["stop"]["watch"] is None, "without config.stop.watch"),
    Idle(("reference",), lambda c: not needs_reference(c), "where nothing is compared with it"),
    Idle(("reference",), lambda c: c["lora"], "with config.lora, whose base is the reference"),
    Idle(
        ("cache_reference",),
        lambda c: is_rl(c) or not needs_reference(c),
        "where the reference scores no data that is there before",
    ),
    Idle(
        ("objective.kl_estimator",),
        lambda c: not needs_reference(c),
        "while the KL has no weight (config.objective.kl_weight, config.advantages.kl_weight)",
    ),
    Idle(
        tuple(f"objective.{clip}" for clip in CLIPS),
        lambda c: c["objective"].get("ratio") == "none",
        "with config.objective.ratio = 'none'",
    ),
    Idle(
        ("sampling.rescore",),
        lambda c: is_rl(c) and not needs_old(c),
        "where nothing is compared with the policy that sampled (config.advantages.kl_weight,"
        " config.rollout.updates, config.rollout.minibatches)",
    ),
    Idle(
        ("objective.importance_cap",),
        lambda c: is_rl(c) and not weighs_importance(c),
        "where the sampler's log-probabilities stand in (config.sampling.rescore is False)",
    ),
    Idle(
        ("advantages.kl_after_baseline", "advantages.kl_limit"),
        lambda c: c["advantages"] and not c["advantages"]["kl_weight"],
        "while config.advantages.kl_weight is 0",
    ),
    Idle(
        ("advantages.kl_after_baseline",),
        lambda c: c["objective"].get("ratio") == "sequence",
        "on tokens with config.objective.ratio = 'sequence', which weighs whole responses",
    ),
    Idle(ADAPTER, lambda c: c["lora"] and c["lora"]["path"], "beside config.lora.path"),
    Idle(
        ("lora.dropout",),
        lambda c: c["objective"]["name"] != "sft" or is_rl(c),
        "where log-probabilities are compared, which needs it off",
    ),
    Idle(
        ("optimizer.final_share",),
        lambda c: c["optimizer"]["schedule"] == "constant",
        "with a constant schedule",
    ),
    Idle(
        ("model.head_chunk",),
        lambda c: c["objective"]["name"] == "reward_model",
        "on a reward model, whose head gives one number",
    ),
    Idle(
        ("reward.dtype", "reward.batch_rows"),
        lambda c: is_rl(c) and not c["reward"]["models"],
        "without config.reward.models",
    ),
    Idle(
        ("reward.scorer",),
        lambda c: is_rl(c) and "verifier" not in reward_weights(c),
        "where config.reward.functions does not name the verifier",
    ),
]


def without_effect(config: dict[str, Any], default: Default) -> Iterator[str]:
    """Settings that somebody changed and that do nothing, a sentence each."""
    for settings, is_idle, why in IDLE:
        for setting in settings:
            value, usual = at(config, setting), default(setting)
            if value is not None and value != usual and is_idle(config):
                yield f"config.{setting} = {value!r} has no effect {why}; leave it at {usual!r}."
