"""The README's chain on real preferences, in few steps: reward models, SFT, DPO and RLOO."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlft_jax.main import main
from tests.models import stories
from tests.tiny_run import values

CONFIGS = Path(__file__).parents[1] / "configs"
# A DistilBERT far smaller than any that was published. It begins with random parameters.
ENCODER = {
    "model_type": "distilbert",
    "vocab_size": 30522,
    "dim": 64,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 128,
    "max_position_embeddings": 512,
}
COMMON = {
    "model.dtype": "float32",
    "model.remat": "none",
    "data.holdout": 0,
    "batch.prompts": 16,
    "batch.tokens": 256,
    "batch.micro_batches": 1,
    "epochs": "none",
    "optimizer.warmup_steps": 0,
    "every.save": 1000,
}
FROM_SCRATCH = {"model.parameters": "random", "optimizer.learning_rate": 2e-3}
HELD_OUT = "test[900:]"
UPDATES = 20

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing is kept in the user's home, or beside the data."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")


@pytest.fixture(scope="module")
def chain(shared_data, tmp_path_factory) -> Path:
    """A folder with the models `stories` and `encoder`, and the runs that began with them.

    The encoder is a config beside the vocabulary of BERT.
    """
    folder = tmp_path_factory.mktemp("preferences")
    stories.convert(shared_data / "tiny_lm/stories260K", folder / "stories")
    encoder = folder / "encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text(json.dumps(ENCODER))
    words = shared_data / "tokenizers/bert-base-uncased/vocab.txt"
    (encoder / "vocab.txt").write_bytes(words.read_bytes())
    # Both files have the same instructions in the same order.
    instructions = parted(shared_data / "instruct/small_instructions_1100.jsonl.gz")
    pairs = parted(shared_data / "preference/polite_style_1100.jsonl.gz")
    pairs["data.shared_prompts"] = "drop"

    train(
        "smoltalk_sft",
        folder / "sft",
        beginning=folder / "stories",
        data=instructions,
        **{
            "steps": 50,
            "data.template": "chat",
            "optimizer.learning_rate": 2e-3,
            "every.evaluate": 25,
        },
    )
    train(
        "ultrafeedback_siamese",
        folder / "style",
        beginning=encoder,
        data=pairs,
        **{
            **FROM_SCRATCH,
            "steps": 100,
            "every.evaluate": 50,
        },
    )
    train(
        "ultrafeedback_dpo",
        folder / "dpo",
        beginning=folder / "sft",
        data=pairs,
        **{
            "steps": 40,
            "cache_reference": False,
            "optimizer.learning_rate": 3e-4,
            "every.evaluate": 40,
        },
    )
    train(
        "ultrafeedback_rloo",
        folder / "rloo",
        beginning=folder / "sft",
        data=instructions,
        **{
            "steps": UPDATES,
            "batch.prompts": 8,
            "optimizer.learning_rate": 1e-3,
            "reward.models": {"style": str(folder / "style")},
            "reward.functions": {"style": 1.0},
            "sampling.max_new_tokens": 48,
            "sampling.temperature": 1.0,
            "every.evaluate": UPDATES,
            "every.evaluate_first": True,
            "evaluation.max_new_tokens": 48,
            "evaluation.temperature": 1.0,
        },
    )
    return folder


def parted(file: Path) -> dict[str, Any]:
    """The first 900 rows of a file to learn from, and some others to measure on."""
    learnt = {"data.path": file, "data.split": "train[:900]"}
    return {**learnt, "data.heldout_path": file, "data.heldout_split": HELD_OUT}


def train(
    config: str, workdir: Path, *, beginning: Path, data: Mapping[str, Any], **settings: Any
) -> None:
    said = {**COMMON, "model.path": beginning, **data, **settings}
    overrides = [f"--config.{name}={value}" for name, value in said.items()]
    assert (
        main(["train", f"--config={CONFIGS}/{config}.py", f"--workdir={workdir}", *overrides]) == 0
    )


def measured(task: str, folder: Path, **flags: Any) -> dict[str, Any]:
    out = folder / "measured.json"
    words = [f"--{name}={value}" for name, value in flags.items()]
    assert main(["evaluate", f"--task={task}", f"--out={out}", *words]) == 0
    return json.loads(out.read_text())


def test_a_small_siamese_encoder_learns_what_judges_prefer(chain, shared_data, tmp_path):
    pairs = shared_data / "preference/alpaca_eval_gpt4.jsonl.gz"
    train(
        "ultrafeedback_siamese",
        tmp_path,
        beginning=chain / "encoder",
        data={
            "data.path": pairs,
            "data.split": "train",
            "data.limit": 2000,
            "data.holdout": 300,
        },
        **{**FROM_SCRATCH, "steps": 40, "every.evaluate": 40},
    )
    result = measured("preferences", tmp_path, model=tmp_path)
    assert result["prompts"] < 150 < result["pairs"]
    assert result["accuracy"]["low"] > 0.5
    assert result["longer_wins"]["low"] > 0.5


@pytest.mark.parametrize("run", ["style", "dpo"])
def test_the_polite_answer_is_preferred_on_held_out_prompts(chain, run):
    result = measured("preferences", chain, model=chain / run)
    assert result["accuracy"]["low"] > 0.6
    assert result["accuracy"]["low"] > result["longer_wins"]["high"]


def test_imitation_lowers_the_loss_on_held_out_instructions(chain):
    first, last = values(chain / "sft", "eval_loss")
    assert last < first < 3.0


def test_the_reward_of_a_trained_model_rises_on_held_out_prompts(chain):
    before, after = values(chain / "rloo", "eval_reward")
    assert after > before + 0.5
    assert values(chain / "rloo", "ratio/mean") == [1.0] * UPDATES


def test_training_wins_against_the_policy_that_it_began_with(chain, shared_data):
    result = measured(
        "instructions",
        chain,
        model=chain / "rloo",
        opponent=chain / "sft",
        judge=chain / "style",
        data=shared_data / "instruct/small_instructions_1100.jsonl.gz",
        split=HELD_OUT,
        temperature=1,
        top_p=1,
        repetition_penalty=1,
        max_new_tokens=48,
    )
    assert result["win_rate"]["low"] > 0.5
