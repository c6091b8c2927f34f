"""Facts about runs that learn from preferences: pairs that others wrote, or the policy's own."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from rlft_jax.config.schema import resolved
from rlft_jax.runs import experiment
from rlft_jax.runs.plan import make_plan
from tests import tiny_run
from tests.tiny_run import assert_same_end, changed, lines, run, values

ANSWERS = ("yes 1 2 3", "no no no no no no")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    rows = [
        {"prompt": f"{n} + {n} = ?", "chosen": f"{ANSWERS[0]} {n}", "rejected": f"{ANSWERS[1]} {n}"}
        for n in range(48)
    ]
    return tiny_run.write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture
def dpo(tiny, pairs):
    def make(**changes):
        sections = dict(
            steps=6,
            model=dict(path=str(tiny.base)),
            data=dict(path=str(pairs), holdout=8),
            objective=dict(name="dpo"),
            optimizer=dict(name="adamw", learning_rate=1e-2, schedule="constant"),
            batch=dict(prompts=8, tokens=64),
            every=dict(save=2, evaluate=3),
        )
        return changed(sections, changes)

    return make


def test_pairs_are_told_apart_better_with_every_step(dpo, tmp_path):
    folder = run(dpo(), tmp_path)
    assert values(folder, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert values(folder, "loss")[-1] < 0.5
    assert values(folder, "rewards/margins")[0] == 0
    assert values(folder, "rewards/margins")[-1] > 0.5
    assert values(folder, "eval_rewards/accuracies")[-1] == 1.0
    assert values(folder, "eval_loss")[-1] < values(folder, "eval_loss")[0] < math.log(2)


def test_the_reference_may_score_each_step_or_once_or_be_the_base_of_adapters(
    dpo, tmp_path, capsys
):
    each = run(dpo(), tmp_path / "each")
    once = run(dpo(cache_reference=True), tmp_path / "once")
    assert "are read from" not in capsys.readouterr().err
    again = run(dpo(cache_reference=True), tmp_path / "again")
    assert "are read from" in capsys.readouterr().err
    assert_same_end(each, once)
    assert_same_end(once, again)


def test_adapters_are_compared_with_their_base(dpo, tmp_path):
    folder = run(dpo(lora__rank=4), tmp_path / "each")
    assert_same_end(folder, run(dpo(lora__rank=4, cache_reference=True), tmp_path / "once"))
    assert values(folder, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert values(folder, "rewards/margins")[-1] > 0.1


def test_a_reference_free_loss_needs_no_second_model(dpo):
    assert not experiment.weights.needs_reference(resolved(dpo(objective__loss="simpo")))


def test_a_damaged_file_of_scores_is_refused(dpo, pairs, tmp_path):
    copy = shutil.copy(pairs, tmp_path)
    run(dpo(cache_reference=True, steps=1, data__path=str(copy)), tmp_path / "one")
    (file,) = (tmp_path / ".rlft_jax/reference_logprobs").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is damaged .*Delete it, and start again"):
        run(dpo(cache_reference=True, data__path=str(copy)), tmp_path / "two")


@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_a_policy_learns_from_selected_responses_of_its_own(tiny, tmp_path, objective):
    config = tiny.rloo(objective=dict(name=objective), rollout__responses=4)
    folder = run(config, tmp_path)
    rewards = values(folder, "reward")
    assert sum(rewards[3:]) > sum(rewards[:3])
    assert len(values(folder, "loss")) == 6
    rows = lines(folder / "samples.jsonl")
    assert "advantage" not in rows[0]


def test_selected_pairs_of_a_rollout_have_the_better_response_first(tiny, tmp_path):
    folder = run(tiny.rloo(objective=dict(name="dpo"), steps=2), tmp_path)
    assert all(0 < share <= 1 for share in values(folder, "frac_real_pairs"))
    assert values(folder, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)


def test_reinforcement_may_learn_from_the_prompts_that_tell_most(tiny, tmp_path):
    config = tiny.rloo(selection=dict(name="informative", share=0.5), batch__prompts=16)
    folder = run(config, tmp_path)
    rewards = values(folder, "reward")
    assert sum(rewards[3:]) > 1.2 * sum(rewards[:3])
    assert values(folder, "ratio/mean") == [1.0] * 6


REFUSED = {
    "a selection that leaves another number of responses": (
        dict(rollout__responses=2, sampling__max_new_tokens=4, selection__name="best"),
        r"config.selection.name = 'best' does not leave what dpo learns from",
    ),
    "a setting that the loss does not use": (
        dict(objective__loss="ipo", objective__label_smoothing=0.1),
        r"config.objective.label_smoothing = 0.1 has no effect with the loss ipo",
    ),
    "a reference that nothing is compared with": (
        dict(objective__loss="simpo", reference="x"),
        r"config.reference = 'x' has no effect where nothing is compared with it",
    ),
    "a cache that would hold nothing": (
        dict(objective__loss="simpo", cache_reference=True),
        r"config.cache_reference = True has no effect",
    ),
    "a preset of another objective": (
        dict(objective__preset="trl"),
        r"config.objective.ratio does not exist",
    ),
    "advantages": (
        dict(advantages__normalize=True),
        r"config.advantages has no effect with config.objective.name = 'dpo'",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_effect_is_refused(dpo, changes, message):
    with pytest.raises(ValueError, match=message):
        make_plan(resolved(dpo(**changes)))


def test_scores_are_kept_under_what_they_depend_on(dpo, pairs, tmp_path):
    kept = lambda: set((pairs.parent / ".rlft_jax/reference_logprobs").iterdir())
    run(dpo(cache_reference=True, steps=1), tmp_path / "a")
    before = kept()
    run(dpo(cache_reference=True, steps=1, data__limit=40), tmp_path / "b")
    assert len(kept() - before) == 1
    with np.load(next(iter(kept() - before))) as file:
        assert (file["logprobs"] < 0).all()
