"""Every file in configs/ says what can run, and does, made small."""

import re
from pathlib import Path

import pytest

from rlft_jax.config import binding as config
from rlft_jax.config.schema import resolved
from rlft_jax.runs import experiment, loading, reward_models
from tests import tiny_run
from tests.tiny_rewards import DEBERTA, DISTILBERT, write_encoder
from tests.tiny_run import lines, values

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
GSM8K = [
    {
        "question": f"Ann has {n} pens and buys {n + 1}. How many?",
        "answer": f"{n}+{n + 1}\n#### {n}",
    }
    for n in range(40)
]
TURNS = [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "yes"}]
ULTRAFEEDBACK = [
    {
        "prompt": f"Say yes to {n}.",
        "chosen": [TURNS[0] | {"content": f"Say yes to {n}."}, TURNS[1]],
        "rejected": [TURNS[0] | {"content": f"Say yes to {n}."}, TURNS[1] | {"content": "no way"}],
        "score_chosen": 8.0,
        "score_rejected": 7.5,
    }
    for n in range(40)
]
# Widths and counts only: everything else is as the file says.
SMALL = {
    "steps": "2",
    "epochs": "none",
    "data.holdout": "8",
    "batch.prompts": "8",
    "batch.tokens": "256",
    "batch.micro_batches": "1",
    "optimizer.warmup_steps": "1",
    "every.log": "1",
    "every.evaluate": "2",
}
REWARD_MODELS = {"siamese": DISTILBERT, "regression": DISTILBERT, "deberta": DEBERTA}
SMALL_RLOO = {
    "sampling.max_new_tokens": "8",
    "rollout.responses": "2",
    "every.samples": "1",
    "evaluation.max_new_tokens": "8",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    return {
        "countdown": tiny_run.write_rows(folder / "countdown.jsonl", tiny_run.countdown_rows(40)),
        "gsm8k": tiny_run.write_rows(folder / "gsm8k.jsonl", GSM8K),
        "smoltalk": tiny_run.write_rows(folder / "smoltalk.jsonl", [{"messages": TURNS}] * 200),
        "ultrafeedback": tiny_run.write_rows(folder / "ultrafeedback.jsonl", ULTRAFEEDBACK),
    }


def test_the_configs_that_the_project_promises_are_there():
    tasks = ("countdown_sft", "countdown_rloo", "gsm8k_sft", "gsm8k_rloo")
    assert {file.stem for file in FILES} >= {*tasks, "countdown_sft_lora", "countdown_rloo_lora"}


@pytest.fixture
def small(tiny, data, tmp_path):
    """What makes a config file small: a model, data and counts."""

    def of(file: Path) -> dict[str, str]:
        source, *kinds = file.stem.split("_")
        changes = SMALL | {"data.path": str(data[source]), "data.split": "train"}
        encoder = REWARD_MODELS.get(kinds[0])
        changes["model.path"] = str(
            tiny.base if encoder is None else write_encoder(tmp_path / "encoder", encoder)
        )
        if "rloo" in kinds:
            changes |= SMALL_RLOO
        if file.stem == "ultrafeedback_rloo":
            helpful = write_encoder(tmp_path / "helpful", DEBERTA)
            changes["reward.models.helpful"] = str(helpful)
        return changes

    return of


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_runs_on_a_mesh_of_eight_devices(small, tmp_path, file):
    settings = resolved(config.read(str(file)), list(small(file).items()))
    workdir = tmp_path / "run"
    experiment.run(settings, workdir)
    assert [x["step"] for x in lines(workdir / "metrics.jsonl") if "loss" in x] == [1, 2]
    assert len(values(workdir, settings["keep"]["metric"])) == 1
    assert values(workdir, "skipped_updates") == [0, 0]
    if settings["objective"]["name"] == "reward_model":
        origin = reward_models.find(str(workdir))
        assert origin.architecture == REWARD_MODELS[file.stem.split("_")[1]]
        assert origin.formatter.preset == settings["formatter"]["preset"]
    else:
        width = loading.load(str(workdir)).origin.architecture.width
        assert width == tiny_run.ARCHITECTURE.width


NEEDED = {"model.path": "Qwen/Qwen2.5-0.5B"}
NEEDED_OF = {"ultrafeedback_rloo": {"reward.models.helpful": "OpenAssistant/reward-model"}}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_says_how_to_run_it(file):
    text = file.read_text()
    assert re.search(rf"rlft train --config=configs/{file.name} --workdir=runs/{file.stem}\b", text)
    assert "--config.data.path=FILE.jsonl" in text
    read = config.read(str(file))
    if "rloo" in file.stem:
        with pytest.raises(ValueError, match=r"config\.model\.path is missing"):
            resolved(read)
    needed = NEEDED | NEEDED_OF.get(file.stem, {})
    assert resolved(read, list(needed.items()))["data"]["holdout"] > 0
