"""Facts about whole runs: what they write, what they refuse, and how they stop."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rlft_jax.config.schema import resolved
from rlft_jax.models import convert, peft
from rlft_jax.rewards import RewardError
from rlft_jax.runs import experiment, exporting, loading
from rlft_jax.runs.plan import make_plan
from rlft_jax.training.run_directory import RunDirectory
from tests import tiny_run
from tests.tiny_run import SHARED_ROLLOUT, lines, run, saved, values

EVALUATED = dict(data__holdout=8, every__evaluate=2, keep__best=1)
# A rate at which the held-out loss is 23 after 2 steps and 59 after 4.
SPOILED = dict(optimizer__learning_rate=1.0)


@pytest.fixture(scope="module")
def sft_run(tiny, tmp_path_factory) -> Path:
    return run(tiny.sft(**EVALUATED), tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="module")
def rloo_run(tiny, tmp_path_factory) -> Path:
    return run(tiny.rloo(), tmp_path_factory.mktemp("rloo"))


@pytest.fixture(scope="module")
def lora_run(tiny, tmp_path_factory) -> Path:
    return run(tiny.sft(lora__rank=4, lora__dropout=0.1), tmp_path_factory.mktemp("lora"))


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_imitation_lowers_the_loss_on_rows_seen_and_held_out(sft_run):
    assert values(sft_run, "loss")[-1] < 0.8 * values(sft_run, "loss")[0]
    evaluations = values(sft_run, "eval_loss")
    assert len(evaluations) == 3
    assert evaluations == sorted(evaluations, reverse=True)


def test_a_run_writes_metrics_apart_from_wall_clock_values(sft_run):
    assert [x["step"] for x in lines(sft_run / "metrics.jsonl") if "loss" in x] == [*range(1, 7)]
    assert [x["step"] for x in lines(sft_run / "timings.jsonl")] == [*range(1, 7)]
    assert all(x["tokens_per_second"] > 0 for x in lines(sft_run / "timings.jsonl"))
    assert not [k for x in lines(sft_run / "metrics.jsonl") for k in x if "time" in k or "per" in k]
    assert list((sft_run / "tensorboard").glob("events*"))
    assert json.loads((sft_run / "versions.json").read_text())["jax"] == jax.__version__


def test_tokens_are_counted_from_the_beginning_of_the_run(sft_run):
    counted = values(sft_run, "num_tokens")
    assert counted == sorted(set(counted))
    assert counted[-1] == lines(sft_run / "metrics.jsonl")[-2]["num_tokens"]
    low, high = (saved(sft_run)[f"tokens.{part}"] for part in ("low", "high"))
    assert (low, high) == (counted[-1], 0)


def test_reinforcement_raises_the_reward_from_ratios_of_one(rloo_run):
    rewards = values(rloo_run, "reward")
    assert sum(rewards[3:]) > 1.5 * sum(rewards[:3])
    assert values(rloo_run, "ratio/mean") == [1.0] * 6
    assert max(map(abs, values(rloo_run, "sampling/kl"))) < 1e-5
    assert len(values(rloo_run, "completions/clipped_ratio")) == 6


def test_samples_are_rows_to_read_with_their_rewards(rloo_run):
    samples = lines(rloo_run / "samples.jsonl")
    assert [row["step"] for row in samples] == [2] * 8 + [4] * 8 + [6] * 8
    for row in samples:
        text = row["completion"]
        assert row["reward"] == pytest.approx(sum(map(str.isdigit, text)) / max(len(text), 1))


def test_adapters_train_and_the_base_does_not(tiny, lora_run):
    assert values(lora_run, "loss")[-1] < values(lora_run, "loss")[0]
    trained = [path for path in saved(lora_run) if path.startswith("params")]
    assert trained
    assert all(".lora." in path for path in trained)
    base, merged = loading.load(str(tiny.base)), loading.load(str(lora_run))
    assert_equal(merged.params["embed"], base.params["embed"])
    down = lambda policy: policy.params["layers"]["mlp"]["down"]["kernel"]
    assert np.abs(down(merged) - down(base)).max() > 1e-4


def test_a_run_is_loaded_from_anywhere_whatever_its_config_calls_its_base(
    tiny, lora_run, tmp_path, monkeypatch
):
    shutil.copytree(tiny.base, tmp_path / "base")
    exporting.export(str(lora_run), tmp_path / "adapter", dtype="float32", adapter=True)
    monkeypatch.chdir(tmp_path)
    folder = run(tiny.sft(steps=1, model__path="base", lora__path="adapter"), Path("run"))
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["model"]["path"], config["lora"]["path"]) == ("base", "adapter")
    here = loading.load(str(folder)).params
    monkeypatch.chdir("/")
    assert_equal(loading.load(str(tmp_path / "run")).params, here)
    exporting.export(str(tmp_path / "run"), tmp_path / "out", adapter=True)
    exported = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert exported["base_model_name_or_path"] == str(tmp_path / "base")


def test_adapters_are_exported_merged_or_alone(tiny, lora_run, tmp_path):
    exporting.export(str(lora_run), tmp_path / "merged", dtype="float32")
    exporting.export(str(lora_run), tmp_path / "alone", dtype="float32", adapter=True)
    base, merged = loading.load(str(tiny.base)), loading.load(str(lora_run))
    assert_equal(convert.load(tmp_path / "merged"), merged.params)
    settings, adapter = peft.load(tmp_path / "alone", base.origin.architecture)
    assert settings.rank == 4
    assert_equal(peft.merge(base.params, adapter, scale=settings.scale), merged.params)


def test_a_run_without_adapters_has_none_to_export(sft_run, tmp_path):
    with pytest.raises(ValueError, match="no adapters to export alone"):
        exporting.export(str(sft_run), tmp_path / "out", adapter=True)
    assert not (tmp_path / "out").exists()


def test_adapters_start_at_their_reference_and_leave_it(tiny, tmp_path):
    config = tiny.rloo(steps=3, lora__rank=4, **SHARED_ROLLOUT)
    kl = values(run(config, tmp_path), "kl")
    assert kl[0] < 1e-13  # the square of float32's rounding: two programs, one policy
    assert kl[2] > 1e-6


def test_the_kl_is_measured_to_the_reference_that_the_config_names(tiny, tmp_path):
    other = tiny_run.write_base(tmp_path / "other", seed=1)
    config = lambda **more: tiny.rloo(steps=1, objective__kl_weight=0.05, **more)
    (own,) = values(run(config(), tmp_path / "own"), "kl")
    (others,) = values(run(config(reference=str(other)), tmp_path / "others"), "kl")
    assert own < 1e-13  # the square of float32's rounding: two programs, one policy
    assert others > 0.01


def test_another_reference_under_the_same_name_is_refused(tiny, tmp_path):
    reference = tiny_run.write_base(tmp_path / "reference", seed=1)
    config = lambda steps: tiny.rloo(
        steps=steps, objective__kl_weight=0.05, reference=str(reference)
    )
    run(config(1), tmp_path / "run")
    tiny_run.save_random(reference, tiny_run.ARCHITECTURE, seed=2)
    with pytest.raises(ValueError, match="not those that the run began with"):
        run(config(2), tmp_path / "run")


def test_another_base_under_the_same_name_is_refused(tiny, tmp_path):
    base = shutil.copytree(tiny.base, tmp_path / "base")
    config = lambda steps: tiny.sft(steps=steps, model__path=str(base), lora__rank=4)
    run(config(1), tmp_path / "run")
    tiny_run.save_random(base, tiny_run.ARCHITECTURE, seed=2)
    with pytest.raises(ValueError, match="not those that the run began with"):
        run(config(2), tmp_path / "run")
    with pytest.raises(ValueError, match="is not the base that the adapters"):
        exporting.export(str(tmp_path / "run"), tmp_path / "out")


def test_accuracy_and_reward_are_measured_while_a_policy_reinforces_itself(tiny, tmp_path):
    held_out = dict(data__holdout=8, every__evaluate=2, evaluation__max_new_tokens=12)
    folder = run(tiny.rloo(steps=2, **held_out), tmp_path)
    (line,) = (x for x in lines(folder / "metrics.jsonl") if "eval_accuracy" in x)
    assert line.keys() == {
        "step",
        *("eval_accuracy", "eval_formatted", "eval_score", "eval_truncated", "eval_mean_length"),
        *("eval_reward", f"eval_rewards/{tiny.reward}"),
    }
    assert line["eval_reward"] == line[f"eval_rewards/{tiny.reward}"] > 0
    assert 0 <= line["eval_truncated"] <= 1


def test_what_was_held_out_may_be_measured_before_the_first_step(tiny, tmp_path, capsys):
    config = tiny.sft(**EVALUATED, every__evaluate_first=True, steps=2)
    folder = run(config, tmp_path)
    first, *_, last = lines(folder / "metrics.jsonl")
    assert (first["step"], last["step"]) == (0, 2)
    assert first["eval_loss"] > last["eval_loss"]
    assert f"Step 0: eval_entropy {first['eval_entropy']:.4g}" in capsys.readouterr().err
    history = experiment.past_evaluations(resolved(config), RunDirectory(folder), begun=2)
    assert history.at(0) == first["eval_loss"]


def test_a_policy_that_only_gets_worse_stops_early(tiny, tmp_path):
    config = tiny.sft(**EVALUATED, **SPOILED, every__evaluate_first=True, stop__patience=1)
    folder = run(config, tmp_path)
    assert [x["step"] for x in lines(folder / "metrics.jsonl") if "eval_loss" in x] == [0, 2]


def test_measuring_first_without_measuring_later_is_refused(tiny):
    with pytest.raises(ValueError, match=r"every\.evaluate_first = True has no effect"):
        resolved(tiny.sft(every__evaluate_first=True))


def test_the_best_checkpoint_outlives_newer_ones_and_is_what_a_run_is(tiny, tmp_path):
    config = tiny.sft(**EVALUATED, **SPOILED, steps=4, keep__last=1)
    folder = run(config, tmp_path)
    at_2, at_4 = values(folder, "eval_loss")
    assert at_2 < at_4
    assert checkpoints(folder) == [2, 4]
    assert loading.chosen_step(RunDirectory(folder), resolved(config)) == 2
    kernel = saved(folder, 2)["params.embed.embedding"]
    np.testing.assert_array_equal(loading.load(str(folder)).params["embed"]["embedding"], kernel)


def test_a_run_that_stopped_early_stays_stopped_until_patience_is_raised(tiny, tmp_path, capsys):
    config = lambda patience: tiny.sft(**EVALUATED, **SPOILED, stop__patience=patience)
    folder = run(config(1), tmp_path)
    assert lines(folder / "metrics.jsonl")[-1]["step"] == 4
    assert "Stopped early: eval_loss has not improved for 1 evaluations" in capsys.readouterr().err
    before = (folder / "metrics.jsonl").read_bytes()
    run(config(1), tmp_path)
    assert (folder / "metrics.jsonl").read_bytes() == before
    run(config(9), tmp_path)
    assert lines(folder / "metrics.jsonl")[-1]["step"] == 6


def test_an_evaluation_that_was_not_finite_still_counts_after_a_resume(tiny, tmp_path):
    directory = RunDirectory(tmp_path)
    logged = [(2, 1.0), (4, None), (6, 0.5)]
    tiny_run.write_rows(
        directory.metrics, [{"step": step, "eval_loss": value} for step, value in logged]
    )
    config = resolved(tiny.sft(**EVALUATED))
    history = experiment.past_evaluations(config, directory, begun=4)
    assert history.at(2) == 1.0
    assert math.isnan(history.at(4))
    assert history.at(6) is None
    assert history.without_progress == 1


@pytest.mark.parametrize(
    ("make", "epochs", "steps"),
    [
        ("sft", 0.5, 4),  # 64 rows, 8 a step
        ("sft", 1.01, 9),
        ("rloo", 0.25, 4),  # 8 problems a rollout of 2 updates: 2 rollouts
    ],
)
def test_epochs_become_steps_before_the_start(tiny, make, epochs, steps):
    more = {"rollout__updates": 2} if make == "rloo" else {}
    config = resolved(getattr(tiny, make)(steps=None, epochs=epochs, **more))
    assert experiment.make_plan(config).steps == steps


def test_a_finished_run_can_be_made_longer(tiny, sft_run, tmp_path):
    # The rate is constant, so it does not depend on the number of steps.
    config = lambda steps: tiny.sft(steps=steps)
    run(config(2), tmp_path / "run")
    run(config(2), tmp_path / "run")  # nothing is left to do
    run(config(4), tmp_path / "run")
    tiny_run.assert_same_end(tmp_path / "run", run(config(4), tmp_path / "whole"))


def test_another_config_is_refused_once_something_is_saved(tiny, sft_run):
    before = {path: path.read_bytes() for path in sft_run.rglob("*") if path.is_file()}
    config = tiny.sft(**EVALUATED, seed=1, batch__prompts=4, steps=9)
    with pytest.raises(ValueError, match="cannot go on with another config") as error:
        run(config, sft_run)
    assert "config.seed was 0, now 1." in str(error.value)
    assert "config.batch.prompts was 8, now 4." in str(error.value)
    assert "config.steps" not in str(error.value)
    assert {path: path.read_bytes() for path in sft_run.rglob("*") if path.is_file()} == before


def test_a_run_that_saved_nothing_may_begin_again_with_another_config(tiny, tmp_path):
    reward = tiny_run.write_reward(tmp_path / "reward.py", before="raise KeyError('oops')")
    functions = [(reward, 1.0)]
    with pytest.raises(RewardError, match="oops"):
        run(tiny.rloo(steps=1, reward__functions=functions), tmp_path / "run")
    other = tiny_run.write_base(tmp_path / "other", seed=1)
    config = tiny.rloo(steps=1, model__path=str(other), seed=3)
    run(config, tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["seed"] == 3
    expected = (other / "config.json").read_text()
    assert (tmp_path / "run/model/config.json").read_text() == expected


def test_updates_that_are_not_finite_stop_the_run_before_they_do_harm(tiny, tmp_path):
    config = tiny.sft(steps=20, optimizer__learning_rate=1e30, stop__skipped=3)
    with pytest.raises(ValueError, match=r"3 updates in a row up to step 4 .*not finite"):
        run(config, tmp_path)
    assert [x["loss"] for x in lines(tmp_path / "metrics.jsonl")][1:] == [None] * 4
    assert values(tmp_path, "skipped_updates") == [0, 1, 2, 3, 4]
    state = saved(tmp_path)
    assert state["step"] == 5  # it looks a step late
    assert all(np.isfinite(x).all() for path, x in state.items() if path.startswith("params"))


def test_updates_that_are_not_finite_are_told_of_at_the_last_step_too(tiny, tmp_path):
    config = tiny.sft(steps=4, optimizer__learning_rate=1e30, stop__skipped=3)
    with pytest.raises(ValueError, match=r"3 updates in a row up to step 4 .*not finite"):
        run(config, tmp_path)


def test_a_failing_reward_stops_the_run_saved_and_mending_it_continues(tiny, tmp_path):
    file, count = tmp_path / "reward.py", tmp_path / "count"
    config = lambda: tiny.rloo(every__save=100, reward__functions=[(f"{file}:digits", 1.0)])
    tiny_run.write_reward(file)
    whole = run(config(), tmp_path / "whole")
    # The fourth rollout fails, and so does every look for the response to blame.
    mark = f"with open({str(count)!r}, 'a') as marks: marks.write('x')"
    fail = f"assert os.path.getsize({str(count)!r}) < 4"
    tiny_run.write_reward(file, before=f"{mark}\n    {fail}")
    with pytest.raises(RewardError, match="digits"):
        run(config(), tmp_path / "run")
    assert checkpoints(tmp_path / "run") == [3]
    tiny_run.write_reward(file)
    run(config(), tmp_path / "run")
    tiny_run.assert_same_end(tmp_path / "run", whole)


def test_sigterm_saves_and_leaves_with_a_code_of_its_own(tiny, tmp_path):
    file = tmp_path / "reward.py"
    config = lambda: tiny.rloo(every__save=100, reward__functions=[(f"{file}:digits", 1.0)])
    tiny_run.write_reward(file)
    whole = run(config(), tmp_path / "whole")
    tiny_run.write_reward(file, before="os.kill(os.getpid(), signal.SIGTERM)")
    with pytest.raises(SystemExit) as end:
        run(config(), tmp_path / "run")
    assert end.value.code == 75
    assert checkpoints(tmp_path / "run") == [1]
    tiny_run.write_reward(file)
    run(config(), tmp_path / "run")
    tiny_run.assert_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__path": "no/such/folder"}, "no/such/folder"),
        ({"data__path": "no/such/file.jsonl"}, "no/such/file.jsonl' does not exist"),
        ({"reward__functions": [("nobody.knows:me", 1.0)]}, "There is no module 'nobody'"),
        ({"mesh__tensor": 3}, "there are 8"),
    ],
)
def test_what_cannot_be_used_is_found_before_anything_is_written(tiny, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tiny.rloo(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_metric_that_no_evaluation_gives_cannot_choose_the_best(tiny):
    with pytest.raises(ValueError, match="'eval_loss' is not measured") as error:
        resolved(tiny.rloo(**EVALUATED))
    assert "choose one of eval_reward" in str(error.value)
    assert "eval_accuracy, eval_formatted" in str(error.value)
    assert resolved(tiny.rloo(**EVALUATED, keep__metric="eval_accuracy"))


def test_a_checkpoint_of_another_shape_cannot_be_the_reference(tiny, tmp_path):
    other = tiny_run.write_base(tmp_path / "other")
    wider = dataclasses.replace(tiny_run.ARCHITECTURE, feed_forward=96)
    tiny_run.save_random(other, wider)
    with pytest.raises(ValueError, match="Name a checkpoint of the same architecture"):
        run(tiny.rloo(objective__kl_weight=0.1, reference=str(other)), tmp_path / "run")


def test_a_folder_that_is_no_run_is_left_alone(tiny, tmp_path):
    folder = shutil.copytree(tiny.base, tmp_path / "base")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match=r"is no run of ours, and holds config\.json"):
        run(tiny.sft(), folder)
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="is no run of ours, and holds model"):
        run(tiny.sft(), tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(ValueError, match=r"config\.json is a file\. Name a folder"):
        run(tiny.sft(), folder / "config.json")


def test_what_cannot_be_read_is_told_together(tiny, tmp_path):
    rows = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"nums": [1, 2]}])
    reward = {"nobody.knows:me": 1.0}
    config = resolved(tiny.rloo(data__path=str(rows), reward__functions=[*reward.items()]))
    with pytest.raises(ValueError, match="This config cannot run:\n- ") as error:
        make_plan(config)
    told = str(error.value)
    assert "- There is no module 'nobody'" in told
    assert f"- config.data.path = '{rows}': some rows cannot be used" in told


def test_a_warm_up_that_epochs_do_not_outlast_is_refused(tiny):
    config = dict(steps=None, epochs=0.5, optimizer__warmup_steps=4)  # 64 rows, 8 a step
    with pytest.raises(ValueError, match=r"warmup_steps = 4 does not end .* has 4 steps"):
        make_plan(resolved(tiny.sft(**config)))


def test_an_evaluation_on_nothing_is_refused(tiny):
    with pytest.raises(ValueError, match="nothing is held out"):
        make_plan(resolved(tiny.sft(data__holdout=0.001, every__evaluate=2)))
