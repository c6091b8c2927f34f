"""Settings that are each right and wrong together, out of range, or without effect."""

from typing import Any

import pytest

from rlft_jax.config.derived import best_mode, with_paths
from rlft_jax.config.schema import resolved
from tests.tiny_run import changed

EVALUATED = dict(data__holdout=8, every__evaluate=2)


def sft(**changes: Any) -> dict[str, Any]:
    """A resolved SFT; nothing that it names is looked for. `data__limit=5` sets one setting."""
    sections = dict(
        steps=6,
        model=dict(path="a/model"),
        data=dict(path="a/dataset", task="countdown"),
        objective=dict(name="sft"),
        optimizer=dict(name="adamw"),
    )
    return resolved(changed(sections, changes))


def rloo(**changes: Any) -> dict[str, Any]:
    """A resolved RLOO."""
    rl = dict(objective=dict(name="rloo"), sampling=dict(max_new_tokens=12))
    return sft(**{**rl, **changes})


def dpo(**changes: Any) -> dict[str, Any]:
    """A resolved DPO."""
    return sft(**{"objective": dict(name="dpo"), "data": dict(path="a/dataset"), **changes})


LATER = "has no effect while config.every.evaluate is 0"
REFUSED = {
    "an evaluation's samples that is never made": (
        rloo,
        dict(evaluation__samples=4),
        rf"config\.evaluation\.samples = 4 {LATER}; leave it at None",
    ),
    "its temperature": (rloo, dict(evaluation__temperature=0.5), rf"temperature = 0\.5 {LATER}"),
    "its limit": (sft, dict(evaluation__limit=5), rf"config\.evaluation\.limit = 5 {LATER}"),
    "its data": (
        sft,
        dict(data__heldout_path="other/data"),
        rf"heldout_path = 'other/data' {LATER}",
    ),
    "a metric that chooses nothing": (
        sft,
        dict(**EVALUATED, keep__metric="eval_mean_token_accuracy"),
        r"config\.keep\.metric = .* has no effect without config\.keep\.best or",
    ),
    "several greedy answers": (
        rloo,
        dict(**EVALUATED, evaluation__samples=2, evaluation__temperature=0.0),
        r"samples = 2 at config\.evaluation\.temperature = 0 would all be the same",
    ),
    "a second score that nothing asks for": (
        rloo,
        dict(sampling__rescore=True),
        r"config\.sampling\.rescore = True has no effect where nothing is compared with the policy",
    ),
    "stale responses that count in full": (
        rloo,
        dict(rollout__overlap=True),
        r"config\.rollout\.overlap = True learns from responses of the policy a step before; set",
    ),
    "stale responses that nothing weighs": (
        rloo,
        dict(
            rollout__overlap=True,
            rollout__updates=2,
            sampling__rescore=False,
            objective__preset="ahmadian",
        ),
        r"of the policy a step before; leave config\.sampling\.rescore at None",
    ),
    "a cap on ratios that are all 1": (
        rloo,
        dict(rollout__updates=2, sampling__rescore=False, objective__importance_cap=2.0),
        r"importance_cap = 2\.0 has no effect where the sampler's log-probabilities stand in",
    ),
    "an empty stop string": (rloo, dict(sampling__stop_strings=("a", "")), "holds an empty text"),
    "a warm-up without end": (
        sft,
        dict(optimizer__warmup_steps=6),
        r"config\.optimizer\.warmup_steps = 6 does not end before the run, which has 6 steps",
    ),
    "dropout of everything": (
        sft,
        dict(lora__dropout=1),
        r"config\.lora\.dropout = 1\.0 must be below 1",
    ),
    "a mean over everything": (
        sft,
        dict(optimizer__b2=1),
        r"config\.optimizer\.b2 = 1\.0 must be below",
    ),
    "a projection that does not exist": (
        sft,
        dict(lora__targets="q_prj"),
        r"config\.lora\.targets = 'q_prj' cannot be adapted; choose among q_proj",
    ),
    "data in two places": (
        sft,
        dict(data__mixture=[{"path": "b"}]),
        r"config\.data\.path = 'a/dataset' and config\.data\.mixture has 1 parts",
    ),
    "a part of no data": (
        sft,
        dict(data__path="", data__mixture=[{"weight": 2.0}]),
        r"config\.data\.mixture cannot be read:\n  - part 0 has weight",
    ),
    "a task that does not exist": (
        sft,
        dict(data__task="cuntdown"),
        r"config\.data\.task = 'cuntdown' does not exist: .* Did you mean countdown\?",
    ),
    "a template of another task": (
        sft,
        dict(data__task="gsm8k", data__template="tinyzero"),
        r"config\.data\.template = 'tinyzero' does not exist: choose one of chat, plain",
    ),
    "a scorer of another task": (
        rloo,
        dict(data__task="gsm8k", reward__scorer="compat"),
        r"config\.reward\.scorer = 'compat' does not exist: choose one of strict",
    ),
    "a seed that is no seed": (sft, dict(seed=2**32), r"config\.seed = 4294967296 must be at most"),
}


@pytest.mark.parametrize(("make", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_what_works_beside_it_is_not():
    rloo(**EVALUATED, evaluation__samples=9, sampling__batch_rows=8)
    rloo(**EVALUATED, evaluation__samples=1, evaluation__temperature=0.0)
    sft(optimizer__warmup_steps=5, lora__targets="q_proj", lora__dropout=0.9)
    sft(**EVALUATED, keep__metric="eval_mean_token_accuracy", stop__patience=1)
    dpo(data__heldout_path="other/data")  # keeps its prompts out of training


def test_a_setting_that_cannot_be_read_silences_no_other_check():
    with pytest.raises(ValueError, match="cannot run") as error:
        sft(batch__prompts="many", lora__dropout=1, optimizer__warmup_steps=9)
    told = str(error.value)
    assert all(name in told for name in ("config.batch.prompts", "lora.dropout", "warmup_steps"))


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("eval_accuracy", "max"),
        ("eval_truncated", "min"),
        ("eval_mean_length", "min"),
        ("eval_reward", "max"),
        ("eval_rewards/verifier", "max"),
        ("eval_rewards/my.module:length", "min"),
        ("eval_rewards/my.module:loss", "max"),
    ],
)
def test_the_best_is_the_lowest_of_what_should_be_low(metric, mode):
    weights = [("verifier", 1.0), ("my.module:length", -0.1), ("my.module:loss", 0.0)]
    config = rloo(**EVALUATED, reward__functions=weights, keep__best=1, keep__metric=metric)
    assert best_mode(config) == mode


def test_a_loss_should_be_low_and_an_accuracy_high():
    assert best_mode(sft()) == "min"
    config = dpo(**EVALUATED, keep__best=1, keep__metric="eval_rewards/accuracies")
    assert best_mode(config) == "max"


def test_every_path_of_a_config_can_be_changed():
    models = {"helpful": "a/judge"}
    config = rloo(reward__models=models, lora__path="an/adapter", reward__functions=None)
    moved = with_paths(config, lambda path: f"/{path}")
    assert moved["model"]["path"] == "/a/model"
    assert moved["lora"]["path"] == "/an/adapter"
    assert moved["data"]["path"] == "/a/dataset"
    assert moved["data"]["heldout_path"] == ""
    assert moved["reward"]["models"] == {"helpful": "/a/judge"}
    assert moved["reference"] is None
    assert config["model"]["path"] == "a/model"
    mixed = sft(data__path="", data__mixture=[{"path": "b", "weight": 2}], data__task=None)
    moved = with_paths(mixed, lambda path: f"/{path}")
    assert moved["data"]["mixture"] == [{"path": "/b", "weight": 2}]
