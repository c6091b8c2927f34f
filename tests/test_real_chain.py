"""The README's chain on a small real model, in few steps: a trained Llama, real problems."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from rlft_jax.data.readers import read_rows
from rlft_jax.main import main
from rlft_jax.tasks import countdown
from tests import tiny_run
from tests.models import stories
from tests.tiny_run import lines, values

CONFIGS = Path(__file__).parents[1] / "configs"
POSITIONS = 512  # all that the model has; a prompt takes up to 376 of them
NEW = 136
UPDATES = 3
PROMPTS = 4

SFT = {
    "model.dtype": "float32",
    "model.remat": "none",
    "data.limit": 64,
    "data.holdout": 8,
    "batch.prompts": 8,
    "batch.tokens": POSITIONS,
    "epochs": "none",
    "steps": 12,
    "optimizer.learning_rate": 3e-3,
    "optimizer.warmup_steps": 2,
    "every.evaluate": 6,
}
RLOO = {
    "model.dtype": "float32",
    "model.remat": "none",
    "data.limit": 64,
    "data.holdout": 0,
    "batch.prompts": 4,
    "batch.tokens": POSITIONS,
    "batch.micro_batches": 2,
    "sampling.max_new_tokens": NEW,
    "steps": UPDATES,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 0,
    "every.evaluate": 0,
    "evaluation": "none",
    "keep": "none",
}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing is kept in the user's home."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")


@pytest.fixture(scope="module")
def problems(shared_data) -> Path:
    return shared_data / "countdown"


@pytest.fixture(scope="module")
def chain(shared_data, problems, tmp_path_factory) -> Path:
    """A folder with the model `stories`, the runs `sft` and `rloo`, and `export`."""
    folder = tmp_path_factory.mktemp("chain")
    base = stories.convert(shared_data / "tiny_lm/stories260K", folder / "stories")
    files = {
        "data.path": problems / "solution_steps.jsonl.gz",
        "data.heldout_path": problems / "solution_steps_eval.jsonl.gz",
    }
    train("countdown_sft", folder / "sft", {**SFT, **files, "model.path": base})
    # So short an SFT solves nothing, which would leave nothing to reinforce.
    digits = tiny_run.write_reward(folder / "reward.py")
    files = {
        "data.path": problems / "tasks_3to4_train.jsonl.gz",
        "reward.functions": {"verifier": 1.0, digits: 1.0},
    }
    train("countdown_rloo", folder / "rloo", {**RLOO, **files, "model.path": folder / "sft"})
    rlft("export", f"--run={folder}/rloo", f"--out={folder}/export", "--dtype=float32")
    return folder


def rlft(*words: str) -> None:
    assert main(words) == 0


def train(config: str, workdir: Path, settings: Mapping[str, object]) -> None:
    overrides = [f"--config.{setting}={value}" for setting, value in settings.items()]
    rlft("train", f"--config={CONFIGS}/{config}.py", f"--workdir={workdir}", *overrides)


def test_imitation_lowers_the_loss_on_held_out_derivations(chain):
    first, last = values(chain / "sft", "eval_loss")
    # Guessing among the model's 512 tokens is log 512 = 6.2 nats; knowing English is no help.
    assert last < first < math.log(512)


def test_updates_start_at_ratio_one_and_report_their_kl(chain):
    run = chain / "rloo"
    assert values(run, "ratio/mean") == [1.0] * UPDATES
    kl = values(run, "kl")
    assert kl[0] == pytest.approx(0, abs=1e-9)
    assert kl[-1] > 1e-6
    assert max(values(run, "sampling/sampling_logp_difference/max")) < 1e-4


def test_evaluation_reads_the_list_of_200_problems(chain, problems, tmp_path):
    out = tmp_path / "result.json"
    data = problems / "cs224r_leaderboard_200.jsonl"
    words = [f"--model={chain}/rloo", f"--data={data}", "--samples=2", "--max_new_tokens=8"]
    rlft("evaluate", *words, f"--out={out}")
    result = json.loads(out.read_text())
    assert result["spec"]["problems"] == 200
    assert result["spec"]["template"] == "tinyzero"
    assert result["pass_at_k"].keys() == {"1", "2"}


@pytest.mark.oracle
def test_transformers_continues_the_exports_prompts_as_we_do(chain, problems, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = read_rows(str(problems / "cs224r_leaderboard_200.jsonl"))[:PROMPTS]
    prompts = [countdown.problem(row).prompt for row in rows]
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    )
    words = [f"--prompts={tmp_path}/prompts.jsonl", f"--out={tmp_path}/ours.jsonl"]
    rlft("generate", f"--model={chain}/rloo", *words, f"--max_new_tokens={NEW}")
    ours = lines(tmp_path / "ours.jsonl")

    tokenizer = AutoTokenizer.from_pretrained(chain / "export")
    model = AutoModelForCausalLM.from_pretrained(chain / "export")
    for prompt, mine in zip(prompts, ours, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        theirs = written[0, ids.shape[1] :].tolist()
        assert mine["token_ids"] == theirs
        assert mine["completion"] == tokenizer.decode(theirs, skip_special_tokens=True)
