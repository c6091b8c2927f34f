"""Facts about runs that train a reward model, and about policies that learn from one."""

import json
import random
import shutil
import string
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlft_jax.config.schema import resolved
from rlft_jax.data.formatting import Formatter
from rlft_jax.main import main
from rlft_jax.runs import exporting, learned_rewards, loading, reward_models
from rlft_jax.runs.plan import make_plan
from rlft_jax.runs.scoring import plan_scorer
from tests import tiny_run
from tests.data.encoder_tokenizers import wordpiece
from tests.runs.test_resume import run_until
from tests.test_processes import TWO, assert_close_runs, command, finish
from tests.tiny_rewards import write_encoder
from tests.tiny_run import assert_same_end, changed, run, values


def row(rng: random.Random, number: int) -> dict[str, Any]:
    """A pair whose better response is the worse one with digits in the places of letters."""
    worse = rng.choices(string.ascii_letters + string.punctuation, k=12)
    better = [str(rng.randrange(10)) if rng.random() < 0.6 else letter for letter in worse]
    scores = {"score_chosen": 4.0, "score_rejected": 2.0}
    responses = {"chosen": "".join(better), "rejected": "".join(worse)}
    return {"prompt": f"{number} + {number} = ?", **responses, **scores}


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory) -> dict[str, Path]:
    """Data, and what reward models are made of: an encoder without weights, and the policy."""
    folder = tmp_path_factory.mktemp("beginnings")
    rng = random.Random(0)
    rows = [row(rng, number) for number in range(48)]
    rows.append(rows[0] | {"prompt": "equal", "score_rejected": 4.0})
    return {
        "data": tiny_run.write_rows(folder / "pairs.jsonl", rows),
        "encoder": write_encoder(folder / "encoder"),
        "decoder": tiny.base,
    }


@pytest.fixture(scope="module")
def config(folders):
    def make(kind: str, **changes):
        parameters, rate = {"encoder": ("random", 2e-2), "decoder": ("new_head", 1e-2)}[kind]
        sections = dict(
            steps=12,
            model=dict(path=str(folders[kind]), parameters=parameters),
            data=dict(path=str(folders["data"]), holdout=8),
            objective=dict(name="reward_model"),
            optimizer=dict(name="adamw", learning_rate=rate, schedule="constant"),
            batch=dict(prompts=8, tokens=128, micro_batches=2),
            every=dict(save=2, evaluate=4),
            keep=dict(best=1, metric="eval_loss"),
        )
        return changed(sections, changes)

    return make


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """Runs of both kinds of model, each made once."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = run(config(kind), tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_reward_model_learns_which_text_is_better(runs, kind):
    folder = runs(kind)
    assert values(folder, "accuracy")[-1] == 1.0
    assert values(folder, "eval_accuracy")[-1] == 1.0
    assert values(folder, "eval_loss")[-1] < 0.05 < 0.5 < values(folder, "loss")[0]
    assert values(folder, "margin")[-1] > 2


def test_a_run_that_stops_ends_as_if_it_had_not(runs, config, tmp_path, monkeypatch):
    run_until(7, config("encoder"), tmp_path, monkeypatch)
    run(config("encoder"), tmp_path)
    assert_same_end(tmp_path, runs("encoder"))


def test_the_mesh_changes_no_more_than_rounding(runs, config, tmp_path):
    folder = run(config("encoder", mesh=dict(data=2, fsdp=2, tensor=2)), tmp_path)
    for metric in ("loss", "margin", "eval_loss"):
        np.testing.assert_allclose(
            values(folder, metric), values(runs("encoder"), metric), rtol=1e-3, atol=1e-4
        )


def test_what_is_dropped_and_what_is_new_is_said(folders, config, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(folders["encoder"], base)
    run(config("encoder", steps=1, model__path=str(base), model__parameters="new_head"), tmp_path)
    said = capsys.readouterr().err
    assert "A new head takes the place of" in said
    assert "40 pairs kept, 0 of them cut, 1 dropped that are pairs of equal responses" in said


def test_regression_learns_the_grades_and_stops_when_nothing_improves(config, tmp_path, capsys):
    how = dict(objective__loss="regression", stop__patience=1, optimizer__learning_rate=1e-2)
    folder = run(config("encoder", steps=400, every__evaluate=20, **how), tmp_path)
    assert values(folder, "eval_loss")[0] < 1.5 < values(folder, "loss")[0]
    assert min(values(folder, "eval_mean_absolute_error")) < 0.6
    assert "Stopped early: eval_loss has not improved" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_an_export_is_the_model_that_was_trained_and_brings_its_formatter(runs, tmp_path, kind):
    exporting.export(str(runs(kind)), tmp_path / "out", dtype="float32")
    theirs, ours = (reward_models.find(str(path)) for path in (runs(kind), tmp_path / "out"))
    assert ours.architecture == theirs.architecture
    assert ours.formatter.fingerprint == theirs.formatter.fingerprint
    where = loading.host()
    params = [reward_models.load(origin, shardings=where) for origin in (theirs, ours)]
    jax.tree.map(np.testing.assert_array_equal, *params)
    with pytest.raises(ValueError, match="no adapters to export alone"):
        exporting.export(str(runs(kind)), tmp_path / "other", adapter=True)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_transformers_gives_an_export_our_scores(runs, tmp_path, kind):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    exporting.export(str(runs(kind)), tmp_path / "out", dtype="float32")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    answered = [("1 + 1 = ?", "2 3"), ("no way", "no"), ("a", "1 2 3 4 5 6 7 8")]
    if kind == "encoder":
        inputs = tokenizer(*zip(*answered), padding=True, return_tensors="pt")
    else:
        turns = lambda *texts: [
            {"role": role, "content": text} for role, text in zip(("user", "assistant"), texts)
        ]
        chats = [tokenizer.apply_chat_template(turns(*one), tokenize=False) for one in answered]
        inputs = tokenizer(chats, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs).logits[:, 0].numpy()
    scorer = plan_scorer(str(runs(kind)), rows=8)
    ours = scorer.scores(scorer.load())(scorer.formatter.texts(answered))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_scores_do_not_depend_on_batches_or_company(runs):
    answered = [(str(n), "1 2 3"[: n % 5]) for n in range(21)]
    found = []
    for rows in (8, 32):
        scorer = plan_scorer(str(runs("decoder")), rows=rows)
        texts = scorer.formatter.texts(answered)
        found.append(scorer.scores(scorer.load())(texts))
    assert found[0].shape == (21,)
    assert len(set(found[0].tolist())) == 21
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


@pytest.fixture
def rloo(tiny, runs):
    def make(kind: str = "decoder", **changes):
        rewards = dict(models={"digits": str(runs(kind))}, functions={"digits": 1.0})
        return tiny.rloo(reward=rewards, every__samples=0, **changes)

    return make


def test_a_policy_earns_more_of_a_learned_reward(rloo, tmp_path, capsys):
    measured = dict(data__holdout=4, every__evaluate=4, evaluation__max_new_tokens=12)
    folder = run(rloo(steps=8, **measured), tmp_path)
    rewards = values(folder, "reward")
    assert rewards == values(folder, "rewards/digits/mean")
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.5
    assert values(folder, "eval_reward")[1] > values(folder, "eval_reward")[0] + 0.5
    said = capsys.readouterr().err
    assert "which reads prompt and response as chat, at most 128 tokens" in said
    assert "reward models " in said


def test_a_learned_reward_mixes_with_others_and_one_of_weight_0_is_only_logged(
    rloo, tiny, runs, tmp_path
):
    models = {"digits": str(runs("decoder")), "other": str(runs("encoder"))}
    functions = [("digits", 0.5), ("verifier", 0.25), ("other", 0.0), (tiny.reward, 2.0)]
    config = rloo(steps=1)
    config.reward = dict(models=models, functions=functions, dtype="bfloat16", batch_rows=8)
    folder = run(config, tmp_path)
    (total,) = values(folder, "reward")
    part = lambda name: values(folder, f"rewards/{name}/mean")[0]
    expected = 0.5 * part("digits") + 0.25 * part("verifier") + 2 * part(tiny.reward)
    assert total == pytest.approx(expected, rel=1e-5)
    assert part("other") != 0


def test_a_run_goes_on_with_the_reward_model_that_it_began_with(rloo, runs, tmp_path):
    steps = [int(path.name) for path in (runs("decoder") / "checkpoints").iterdir()]
    for name, step in (("a", max(steps)), ("b", min(steps))):
        exporting.export(str(runs("decoder")), tmp_path / name, step=step)
    config = lambda steps: rloo(steps=steps, reward__models={"digits": str(tmp_path / "a")})
    run(config(1), tmp_path / "run")
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    with pytest.raises(ValueError, match=r"reward\.models\.digits.* config\.reward\.models named"):
        run(config(2), tmp_path / "run")


def test_a_response_that_does_not_fit_is_read_without_its_end(tmp_path):
    formatter = Formatter(wordpiece(["no"], tmp_path), "pair", 8)
    answered = [("no", "no"), ("no no", "no " * 9), ("no no no", "no no no")]
    texts, cut = learned_rewards.fitted(formatter, answered)
    assert cut == 1
    read = [formatter.tokenizer.decode(text.tokens) for text in texts]
    assert read[1] == "[CLS] [SEP] " + "no " * 5 + "[SEP]"
    assert read[2] == "[CLS] no no [SEP] no no no [SEP]"
    dropping = Formatter(formatter.tokenizer, "pair", 8, "drop")
    texts, cut = learned_rewards.fitted(dropping, answered)
    assert cut == 2
    read = [formatter.tokenizer.decode(text.tokens) for text in texts]
    assert read[1] == "[CLS] no no [SEP] no no no [SEP]"
    assert read[2] == "[CLS] no no no [SEP] no no [SEP]"


def refused(config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(resolved(config))


def test_what_is_no_reward_model_or_another_one_is_refused(config, rloo, runs, tiny, tmp_path):
    policy = run(tiny.sft(steps=1), tmp_path / "policy")
    is_policy = r"models\.digits: .*policy.*, which gives texts no score"
    refused(rloo(reward__models={"digits": str(policy)}), is_policy)
    refused(rloo(reward__models={"digits": str(tiny.base)}), is_policy)
    refused(config("decoder", model__parameters="checkpoint"), r"parameters = 'new_head'")
    refused(config("decoder", model__path=str(policy)), "Export it")
    trained = str(runs("decoder"))
    refused(tiny.rloo(model__path=trained), "trained a reward model, which writes no texts")
    going_on = lambda **more: config(
        "decoder", model=dict(path=trained), optimizer__learning_rate=1e-3, **more
    )
    assert make_plan(resolved(going_on())).formatter.tokens == 128
    refused(going_on(batch__tokens=64), "tokens was 128 in training, and is 64")
    refused(going_on(formatter__preset="plain"), "preset was 'chat' in training, and is 'plain'")
    refused(
        config("encoder", batch__tokens=257), r"tokens = 257 is more than the 256 .*batch\.tokens"
    )


def test_an_encoder_has_one_way_to_attend(config):
    refused(config("encoder", model__attention="blockwise"), "no effect on an encoder")
    assert make_plan(resolved(config("decoder", model__attention="blockwise"))).steps


def test_another_tokenizer_beside_the_model_is_refused(runs, config, tmp_path):
    exporting.export(str(runs("encoder")), tmp_path / "out")
    wordpiece(["no"], tmp_path).save(tmp_path / "out")
    refused(config("encoder", model=dict(path=str(tmp_path / "out"))), "tokenizer was '")


def test_prompts_that_leave_no_room_are_refused_before_anything_is_loaded(rloo, runs, tmp_path):
    exporting.export(str(runs("decoder")), tmp_path / "out")
    file = tmp_path / "out/rlft_formatter.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"tokens": 56, "too_long": "drop"}))
    config = rloo(reward__models={"digits": str(tmp_path / "out")})
    refused(config, r"64 of 64 prompts, .* do not fit into the 56 .* trained to drop")


SAID = {
    "a model without a weight": (
        dict(models={"a": "x"}, functions={"verifier": 1.0}),
        r"config.reward.models.a has no weight; set it with config.reward.functions.a",
    ),
    "a weight without a model": (
        dict(functions={"helpful": 1.0}),
        r"'helpful', which is no function's place.*config.reward.models.helpful",
    ),
    "the verifier's name": (dict(models={"verifier": "x"}), "the name of the task's rule"),
    "a type without a model": (
        dict(dtype="bfloat16"),
        r"config.reward.dtype = 'bfloat16' has no effect without config.reward.models",
    ),
}


@pytest.mark.parametrize(("section", "message"), SAID.values(), ids=SAID)
def test_rewards_that_make_no_sense_are_refused(tiny, section, message):
    with pytest.raises(ValueError, match=message):
        resolved(tiny.rloo(reward=section))


def test_what_is_trained_on_can_be_looked_at(config, tmp_path, capsys):
    words = command(config("encoder"), tmp_path, tmp_path / "run")
    (file,) = [word for word in words if word.startswith("--config=")]
    assert main(["inspect", file, "--examples=1"]) == 0
    told = capsys.readouterr().out
    assert "dropped, equal responses   1 (" in told
    assert told.count("[SEP]") == 4
    assert "12 steps; 8 rows held out." in told


@pytest.mark.slow
def test_two_processes_train_and_use_a_reward_model_as_one_does(config, tiny, tmp_path):
    said = []

    def both(name: str, settings: Any) -> Path:
        one, two = tmp_path / name, tmp_path / f"{name}_by_two"
        finish(command(settings, tmp_path, one), tmp_path)
        said.append(finish([*TWO, *command(settings, tmp_path, two)], tmp_path))
        assert_close_runs(two, one)
        return one

    # Adam turns the rounding of a gradient near 0 into a whole step unless epsilon is above it.
    common = dict(steps=4, every__evaluate=2, log__tensorboard=False, optimizer__epsilon=1e-3)
    trained = both("reward", config("encoder", data__holdout=5, **common))
    rewards = dict(models={"learnt": str(trained)}, functions={"learnt": 1.0, "verifier": 0.5})
    how = dict(data__holdout=5, evaluation__max_new_tokens=6, optimizer__learning_rate=2e-3)
    both("policy", tiny.rloo(reward=rewards, **how, **common))
    assert all("on 2 device(s): data 1, fsdp 2" in output for output in said)
