"""What we export runs in lm-evaluation-harness, and means there what it means here."""

import json

import pytest

pytest.importorskip("torch")
lm_eval = pytest.importorskip("lm_eval")

from rlft_jax.commands.logprobs import logprobs  # noqa: E402 - needs what is looked for above
from rlft_jax.data.tiny_tokenizer import save_tiny_tokenizer  # noqa: E402
from rlft_jax.models import convert  # noqa: E402
from rlft_jax.models.qwen2 import Architecture  # noqa: E402
from rlft_jax.runs import exporting  # noqa: E402
from tests.models.qwen2_models import random_params  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

ARCHITECTURE = Architecture(
    vocabulary=320,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    feed_forward=24,
    head_width=4,
    rope_theta=10_000.0,
    max_positions=64,
)
ROWS = [
    {"question": "Who barks?", "choices": [" a cat", " a dog", " nobody"], "answer": 1},
    {"question": "Two and two is", "choices": [" four", " five"], "answer": 0},
    {"question": "The sky is often", "choices": [" blue", " green and loud"], "answer": 0},
]


@pytest.fixture
def exported(tmp_path):
    """Folder of a tiny random policy with its tokenizer, as `rlft export` writes it."""
    texts = [row["question"] + choice for row in ROWS for choice in row["choices"]]
    trained, out = tmp_path / "trained", tmp_path / "exported"
    trained.mkdir()
    out.mkdir()
    save_tiny_tokenizer(texts, trained, size=ARCHITECTURE.vocabulary)
    convert.save(trained, random_params(ARCHITECTURE), ARCHITECTURE, dtype="float32")
    exporting.write(str(trained), out, dtype="float32")
    return out


def task(folder):
    """Writes a multiple-choice task over `ROWS`, and returns the manager that knows it."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    definition = {
        "task": "tiny_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "tiny_questions.yaml").write_text(json.dumps(definition))  # JSON is YAML
    return lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)


def test_a_task_gets_the_log_likelihoods_that_we_compute(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    result = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(exported), "dtype": "float32"},
        tasks=["tiny_questions"],
        task_manager=task(tasks),
        device="cpu",
        batch_size=2,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(result["samples"]["tiny_questions"], key=lambda sample: sample["doc_id"])
    theirs = [float(value) for sample in samples for value, _ in sample["filtered_resps"]]

    data, out = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    pairs = [(row, choice) for row in ROWS for choice in row["choices"]]
    lines = [{"prompt": row["question"], "completion": choice} for row, choice in pairs]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    logprobs(model=str(exported), data=str(data), out=str(out))
    ours = [sum(json.loads(line)["logprobs"]) for line in out.read_text().splitlines()]
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert max(ours) - min(ours) > 1

    best = [
        max(range(len(row["choices"])), key=_of(ours, i).__getitem__) for i, row in enumerate(ROWS)
    ]
    accuracy = sum(b == row["answer"] for b, row in zip(best, ROWS, strict=True)) / len(ROWS)
    assert result["results"]["tiny_questions"]["acc,none"] == pytest.approx(accuracy)


def _of(values, number):
    """The values of the choices of one row."""
    start = sum(len(row["choices"]) for row in ROWS[:number])
    return values[start : start + len(ROWS[number]["choices"])]
