"""`rlft evaluate --task=preferences` measures what a policy learnt, and what a run held out."""

import json

import pytest

from rlft_jax.commands import implicit_rewards
from rlft_jax.commands.evaluate_preferences import evaluate_preferences
from tests import tiny_run
from tests.tiny_rewards import write_encoder
from tests.tiny_run import changed, run, values


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    rows = [
        {
            "prompt": f"{n} + {n} = ?",
            "chosen": f"yes {n * n}",
            "rejected": f"no {n} no",
            "score_chosen": 4,
            "score_rejected": 1,
        }
        for n in range(40)
    ]
    return str(tiny_run.write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows))


@pytest.fixture(scope="module")
def common(pairs):
    return dict(
        steps=4,
        data=dict(path=pairs, holdout=12),
        optimizer=dict(name="adamw", learning_rate=3e-3, schedule="constant"),
        batch=dict(prompts=8, tokens=64),
        every=dict(evaluate=4),
    )


@pytest.fixture(scope="module")
def policy(tiny, common, tmp_path_factory):
    """A policy that learnt from the pairs, by DPO with beta 0.5."""
    model, objective = dict(path=str(tiny.base)), dict(name="dpo", beta=0.5)
    return run(
        changed({**common, "model": model, "objective": objective}, {}),
        tmp_path_factory.mktemp("dpo"),
    )


@pytest.fixture
def measured(tmp_path):
    def measured(**flags):
        out = tmp_path / "out.json"
        evaluate_preferences(task="preferences", out=str(out), batch_rows=16, **flags)
        return json.loads(out.read_text())

    return measured


def test_a_policy_is_measured_by_the_reward_that_its_metrics_show(policy, measured):
    result = measured(model=str(policy))
    assert (result["pairs"], result["prompts"]) == (12, 12)
    metric = lambda name: values(policy, f"eval_rewards/{name}")[-1]
    assert result["accuracy"]["value"] == pytest.approx(metric("accuracies"))
    assert result["margin"]["value"] == pytest.approx(metric("margins"), abs=1e-4)
    assert metric("margins") != 0
    assert result["spec"]["beta"] == 0.5


def test_a_reference_of_ones_own_and_beta_count(policy, pairs, tiny, measured):
    every = dict(model=str(policy), data=pairs, split="test[:20]")
    usual = measured(**every)
    same = measured(**every, reference=str(tiny.base), beta=1.0)
    assert usual["pairs"] == 20
    assert same["margin"]["value"] == pytest.approx(2 * usual["margin"]["value"], rel=1e-5)
    assert measured(**every, reference=str(policy))["equal_scores"] == 1.0


@pytest.mark.parametrize("loss", ["bradley_terry", "regression"])
def test_a_reward_model_is_measured_on_what_its_run_held_out(common, measured, tmp_path, loss):
    model = dict(path=str(write_encoder(tmp_path / "encoder")), parameters="random")
    sections = {**common, "model": model, "objective": dict(name="reward_model", loss=loss)}
    folder = run(changed(sections, {}), tmp_path / "run")
    result = measured(model=str(folder))
    assert (result["pairs"], result["prompts"]) == (12, 12)
    assert "held out" in result["spec"]["data"]
    if loss == "bradley_terry":
        assert result["log_loss"]["value"] == pytest.approx(
            values(folder, "eval_loss")[-1], abs=1e-4
        )


def test_what_cannot_be_measured_or_has_no_effect_is_refused(policy, pairs, tiny, measured):
    refused = lambda message: pytest.raises(ValueError, match=message)
    model = str(policy)
    with refused("is no run that held out pairs"):
        measured(model=str(tiny.base), reference=str(tiny.base))
    with refused("--limit=3 has no effect without --data"):
        measured(model=model, limit=3)
    with refused("--tokens=32 has no effect on a policy"):
        measured(model=model, tokens=32)
    with refused("--beta=0.1 has no effect without --reference"):
        measured(model=str(tiny.base), data=pairs, beta=0.1)
    with refused("--beta=0 must be above 0"):
        measured(model=model, beta=0)


def test_a_policy_that_had_no_reference_needs_one(policy, monkeypatch):
    config = implicit_rewards.config_of(str(policy))
    config["objective"]["loss"] = "simpo"
    monkeypatch.setattr(implicit_rewards, "config_of", lambda _: config)
    with pytest.raises(ValueError, match=r"learnt without a reference.*set --reference"):
        implicit_rewards.plan_implicit_reward(str(policy), rows=8, dtype="float32")


def test_models_of_different_vocabularies_are_not_compared(policy, model_folder):
    with pytest.raises(ValueError, match="different vocabularies"):
        implicit_rewards.plan_implicit_reward(
            str(policy), reference=model_folder, rows=8, dtype="float32"
        )
