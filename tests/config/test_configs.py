"""Every file in configs/ says what can run, and does, made small."""

import re
from pathlib import Path

import pytest

from rlft_jax.config import binding as config
from rlft_jax.config.schema import resolved
from rlft_jax.runs import experiment, loading
from tests import tiny_run
from tests.tiny_run import lines, values

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
GSM8K = [
    {
        "question": f"Ann has {n} pens and buys {n + 1}. How many?",
        "answer": f"{n}+{n + 1}\n#### {n}",
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
    "every.log": "1",
    "every.evaluate": "2",
}
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
    }


def test_the_configs_that_the_project_promises_are_there():
    tasks = ("countdown_sft", "countdown_rloo", "gsm8k_sft", "gsm8k_rloo")
    assert {file.stem for file in FILES} >= {*tasks, "countdown_sft_lora", "countdown_rloo_lora"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_runs_on_a_mesh_of_eight_devices(tiny, data, tmp_path, file):
    rows = str(data[file.stem.split("_")[0]])
    small = SMALL | {"model.path": str(tiny.base), "data.path": rows, "data.split": "train"}
    if "rloo" in file.stem:
        small |= SMALL_RLOO
    settings = resolved(config.read(str(file)), list(small.items()))
    experiment.run(settings, tmp_path)
    assert [x["step"] for x in lines(tmp_path / "metrics.jsonl") if "loss" in x] == [1, 2]
    assert len(values(tmp_path, settings["keep"]["metric"])) == 1
    assert values(tmp_path, "skipped_updates") == [0, 0]
    assert loading.load(str(tmp_path)).origin.architecture.width == tiny_run.ARCHITECTURE.width


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_says_how_to_run_it(file):
    text = file.read_text()
    assert re.search(rf"rlft train --config=configs/{file.name} --workdir=runs/{file.stem}\b", text)
    assert "--config.data.path=FILE.jsonl" in text
    read = config.read(str(file))
    if "rloo" in file.stem:
        with pytest.raises(ValueError, match=r"config\.model\.path is missing"):
            resolved(read)
    assert resolved(read, [("model.path", "Qwen/Qwen2.5-0.5B")])["data"]["holdout"] == 200
