"""Facts about the command line from end to end: every command on what the last one left."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from rlft_jax.main import main
from rlft_jax.models import safetensors_files
from tests import tiny_run
from tests.tiny_run import SHARED_ROLLOUT, lines, values

SIZES = ("--samples=2", "--max_new_tokens=6", "--temperature=1")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """The cache of programs is what the test session has, and nothing is in the user's home."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.delenv("RLFT_TRACEBACK", raising=False)


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory) -> Path:
    """A folder with `sft.py` and `rloo.py`, whose model is to be named on the command line."""
    folder = tmp_path_factory.mktemp("files")
    for name, config in (
        ("sft", tiny.sft(steps=2)),
        ("rloo", tiny.rloo(steps=2, **SHARED_ROLLOUT)),
    ):
        text = json.dumps(config.to_dict())
        (folder / f"{name}.py").write_text(
            f"import json\n\n\ndef get_config():\n    return json.loads({text!r})\n"
        )
    return folder


@pytest.fixture(scope="module")
def trained(files) -> Path:
    """A folder where `rlft train` has made the runs `sft`, and from it `rloo`."""
    assert main(["train", f"--config={files}/sft.py", f"--workdir={files}/sft"]) == 0
    started_from = f"--config.model.path={files}/sft"
    words = [f"--config={files}/rloo.py", f"--workdir={files}/rloo", started_from]
    assert main(["train", *words, "--config.lora.rank=4"]) == 0
    return files


def test_rloo_goes_on_from_the_model_that_sft_made(trained):
    # The square of float32's rounding: the update and the scores of before are two programs.
    assert values(trained / "rloo", "kl")[0] < 1e-12
    assert len(values(trained / "rloo", "loss")) == 2
    ours, theirs = (trained / f"{name}/model/tokenizer.json" for name in ("sft", "rloo"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_train_goes_on_from_where_the_run_is(trained, capsys):
    words = [f"--config={trained}/sft.py", f"--workdir={trained}/sft"]
    assert main(["train", *words]) == 0
    assert "is at step 2 of 2: nothing is left to do" in capsys.readouterr().err


def test_evaluate_reads_a_run_and_poses_problems_as_it_was_trained(tiny, trained, tmp_path):
    words = [f"--model={trained}/rloo", f"--data={tiny.data}", "--limit=4", *SIZES]
    assert main(["evaluate", *words, f"--out={tmp_path}/result.json"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["pass_at_k"].keys() == {"1", "2"}
    assert result["spec"]["template"] == "plain"


def test_a_run_and_its_export_generate_and_score_the_same(trained, tmp_path):
    words = [f"--run={trained}/rloo", f"--out={tmp_path}/exported", "--dtype=float32"]
    assert main(["export", *words]) == 0
    prompts = tiny_run.write_rows(
        tmp_path / "prompts.jsonl",
        [{"prompt": "3 5 7 = 15 :"}, {"messages": [{"role": "user", "content": "1 + 1"}]}],
    )
    for name, model in (("run", trained / "rloo"), ("folder", tmp_path / "exported")):
        generated, scored = tmp_path / f"{name}.jsonl", tmp_path / f"{name}_scored.jsonl"
        words = [f"--model={model}", f"--prompts={prompts}", f"--out={generated}"]
        assert main(["generate", *words, "--max_new_tokens=6"]) == 0
        words = [f"--model={model}", f"--data={generated}", f"--out={scored}"]
        assert main(["logprobs", *words]) == 0
    assert (tmp_path / "run.jsonl").read_bytes() == (tmp_path / "folder.jsonl").read_bytes()
    for ours, theirs in zip(
        lines(tmp_path / "run_scored.jsonl"), lines(tmp_path / "folder_scored.jsonl")
    ):
        np.testing.assert_allclose(ours["logprobs"], theirs["logprobs"], atol=1e-6)
        assert max(ours["logprobs"]) < 0


def test_export_writes_what_transformers_reads(trained, tmp_path):
    assert main(["export", f"--run={trained}/sft", f"--out={tmp_path}/out"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert names >= {*expected, "chat_template.jinja"}
    stored = safetensors_files.read_folder(tmp_path / "out")
    assert {tensor.dtype for tensor in stored.values()} == {"BF16"}


def test_inspect_shows_what_a_config_trains_on(files, capsys):
    words = [f"--config={files}/sft.py", "--examples=2", "--config.data.holdout=4"]
    assert main(["inspect", *words]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^rows +60$", shown, re.MULTILINE)
    assert re.search(r"^kept +60 \(100\.0%\)$", shown, re.MULTILINE)
    assert re.search(r"^stop token trained on +yes$", shown, re.MULTILINE)
    assert re.findall(r"^Example (\d): \d+ tokens, \d+ trained on$", shown, re.MULTILINE) == [
        "1",
        "2",
    ]
    assert "⟦" in shown
    assert "2 steps; 4 rows held out." in shown
    assert main(["inspect", f"--config={files}/rloo.py", "--examples=1"]) == 0
    shown = capsys.readouterr().out
    assert "Example 1: " in shown
    assert "⟦" not in shown.partition("Example 1: ")[2]  # prompts alone
    assert "2 steps; 0 rows held out." in shown


def test_env_names_the_devices(capsys):
    assert main(["env"]) == 0
    assert f"devices           {jax.device_count()} x cpu\n" in capsys.readouterr().out


def refused(capsys, *words: str) -> str:
    """What the user reads when a command refuses to work."""
    assert main(list(words)) == 2
    message = capsys.readouterr().err.strip().splitlines()
    start = next(i for i, line in enumerate(message) if line.startswith("rlft: "))
    return "\n".join(message[start:])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.path=no/such/model", "no/such/model"),
        ("data.path=no/such/rows.jsonl", "config.data.path = 'no/such/rows.jsonl' does not exist"),
        ("model.path=pyproject.toml", "config.model.path = 'pyproject.toml' is a file"),
        ("optimizer.learning_rat=1", "Did you mean config.optimizer.learning_rate?"),
        ("batch.prompts=many", "config.batch.prompts cannot be set: 'many' is not a whole number"),
        ("batch.tokens=8", "Nothing is left"),
        ("batch.micro_batches=3", "does not divide into config.batch.micro_batches = 3"),
        ("every.evaluate=1", "set config.data.holdout"),
        ("data.holdout=64", "cannot be taken from 64 rows"),
        ("data.task=cuntdown", "countdown"),
        ("mesh.tensor=16", "there are 8"),
        ("lora.targets=q_prj", "q_prj"),
    ],
)
def test_a_wrong_setting_is_told_in_a_sentence_and_nothing_is_written(
    files, tmp_path, capsys, setting, message
):
    words = [f"--config={files}/sft.py", f"--workdir={tmp_path}/run", f"--config.{setting}"]
    told = refused(capsys, "train", *words)
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_everything_that_is_wrong_is_told_at_once(files, tmp_path, capsys):
    wrong = {
        "model.path": "no/such/model",
        "data.path": "no/such/rows.jsonl",
        "lora.targets": "q_prj",
        "sampling.batch_rows": "0",
        "mesh.tensor": "16",
        "optimizer.learning_rat": "1",
    }
    words = [f"--config={files}/rloo.py", f"--workdir={tmp_path}/run"]
    words += [f"--config.{setting}={value}" for setting, value in wrong.items()]
    told = refused(capsys, "train", *words)
    assert told.startswith("rlft: This config cannot run:\n- ")
    assert len(re.findall("^- ", told, re.MULTILINE)) == len(wrong)
    for setting in wrong.keys() - {"mesh.tensor"}:
        assert f"config.{setting} " in told
    assert "data x fsdp x tensor = 1 x 1 x 16 needs 16 devices, but there are 8" in told


def test_a_line_that_is_not_json_is_named(files, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"nums": [1, 2], "target": 3}\n{"nums": [1, 2], "target": \n')
    words = [f"--config={files}/sft.py", f"--workdir={tmp_path}/run", f"--config.data.path={rows}"]
    assert f"{rows}, line 2 is not JSON" in refused(capsys, "train", *words)
    assert not (tmp_path / "run").exists()


def test_a_row_without_its_columns_is_named(files, tmp_path, capsys):
    rows = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"nums": [1, 2]}])
    words = [f"--config={files}/sft.py", f"--workdir={tmp_path}/run", f"--config.data.path={rows}"]
    told = refused(capsys, "train", *words)
    assert f"config.data.path = '{rows}': some rows cannot be used" in told
    assert "- line 1: " in told
    assert "target" in told
    assert not (tmp_path / "run").exists()


def test_an_empty_workdir_has_nothing_to_export(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    told = refused(capsys, "export", f"--run={tmp_path}/run", f"--out={tmp_path}/out")
    assert "is no run directory" in told
    assert not (tmp_path / "out").exists()


def test_a_step_that_was_not_kept_cannot_be_exported(trained, tmp_path, capsys):
    words = [f"--run={trained}/sft", f"--out={tmp_path}/out", "--step=1"]
    assert "has no checkpoint of step 1. There are steps [2]" in refused(capsys, "export", *words)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_begun_with_another_config_is_left_alone(trained, capsys):
    words = [f"--config={trained}/sft.py", f"--workdir={trained}/sft", "--config.seed=5"]
    before = (trained / "sft/config.json").read_bytes()
    assert "config.seed was 0, now 5." in refused(capsys, "train", *words)
    assert (trained / "sft/config.json").read_bytes() == before
