"""`rlft evaluate` measures a folder's model, and says what it measured."""

import json

import datasets
import pytest

from rlft_jax.commands import evaluate as command
from rlft_jax.commands import policies
from rlft_jax.commands.evaluate import evaluate, read_problems
from rlft_jax.runs import loading
from rlft_jax.training.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path, model_folder):
    def run(**flags):
        small = {"limit": 3, "samples": 2, "max_new_tokens": 4, "template": "plain"}
        out = tmp_path / "result.json"
        evaluate(**{"model": model_folder, **small, "out": str(out), **flags})
        return json.loads(out.read_text())

    return run


def test_figures_tables_and_completions_are_written(run, tmp_path, capsys, model_folder):
    result = run(completions=str(tmp_path / "all.jsonl"))
    spec = result["spec"]
    assert spec["model"] == model_folder
    assert (spec["problems"], spec["samples"], spec["temperature"]) == (3, 2, 0.6)
    assert (spec["top_p"], spec["top_k"], spec["template"]) == (0.95, 20, "plain")
    assert result["truncated"]["value"] + result["parse_failures"]["value"] > 0
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert result["completions"][0] == rows[0]
    out = capsys.readouterr().out
    assert "pass@k" in out
    assert "temperature 0.6, top-p 0.95, top-k 20" in " ".join(out.split())


def test_the_result_depends_on_the_seed_and_not_on_the_batch(run):
    first, in_parts, other = run(), run(batch_rows=2), run(seed=1)
    said = lambda result: [row["completion"] for row in result["completions"]]
    assert said(in_parts) == said(first)
    assert in_parts["mean_length"] == first["mean_length"]
    assert said(other) != said(first)


def test_rows_of_a_file_are_posed(run, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"nums": [44, 19, 35], "target": 98}\n{"nums": [1, 2, 3, 4], "target": 24}\n')
    result = run(data=str(data), limit=None)
    assert list(result["groups"]) == ["3 numbers", "4 numbers"]
    assert result["spec"]["data"] == str(data)
    assert "44,19,35=98" in result["completions"][0]["prompt"]


def test_bad_rows_are_named_with_their_file_and_line(run, tmp_path):
    data = tmp_path / "data.jsonl"
    good = '{"nums": [1, 2], "target": 3}'
    data.write_text(f'{good}\n\n{{"nums": [1, 2]}}\n{good}\n{{"nums": "?", "target": 1}}\n')
    with pytest.raises(ValueError, match="cannot be used") as error:
        run(data=str(data), limit=None)
    told = str(error.value)
    assert f"--data = '{data}'" in told
    assert "- line 3: A countdown row needs the columns nums, target" in told
    assert "- line 5: Countdown needs whole numbers" in told


def test_problems_that_are_made_are_always_the_same():
    rows, source = read_problems("countdown", None, limit=5, template="plain")
    again, _ = read_problems("countdown", None, limit=3, template="plain")
    assert rows[:3] == again
    assert "seed" in source


def test_problems_that_are_made_have_no_splits():
    with pytest.raises(ValueError, match=r"^--split=test\[:9\] and --subset=hard have no effect"):
        read_problems(
            "countdown", None, split="test[:9]", subset="hard", limit=None, template="plain"
        )


def test_the_split_of_a_data_set_is_told(tmp_path):
    rows = datasets.Dataset.from_list([{"nums": [n, 2, 1], "target": n} for n in (10, 11, 12)])
    folder = str(tmp_path / "saved")
    datasets.DatasetDict(train=rows, test=rows.select([2])).save_to_disk(folder)
    read = lambda **how: read_problems("countdown", folder, limit=None, template="plain", **how)
    problems, source = read(split="train")
    assert (len(problems), source) == (3, f"{folder}, train")
    problems, source = read()
    assert (len(problems), source) == (1, f"{folder}, test")


def test_a_subset_and_a_slice_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    for name, target in (("easy", 3), ("hard", 97)):
        row = {"nums": [1, 2], "target": target}
        (folder / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- {config_name: easy, data_files: [{split: test, path: easy.jsonl}]}\n"
        "- {config_name: hard, data_files: [{split: test, path: hard.jsonl}]}\n---\n"
    )
    read = lambda data, **how: read_problems("countdown", data, limit=None, template="plain", **how)
    problems, source = read(str(folder), subset="hard")
    assert len(problems) == 3
    assert all("97" in str(problem.prompt) for problem in problems)
    assert source == f"{folder}, hard, test"
    file = str(folder / "easy.jsonl")
    problems, source = read(file, split="test[1:]")
    assert (len(problems), source) == (2, f"{file}, test[1:]")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"task": "chess"}, "no task 'chess'"),
        ({"scorer": "kind"}, "no countdown scorer 'kind'"),
        ({"template": "poem"}, "no countdown template 'poem'"),
        ({"temperature": 0.0}, "--samples=2 at --temperature=0 would all be the same"),
        ({"task": "gsm8k", "template": None}, "makes none. Set --data"),
        ({"limit": 0}, "--limit=0"),
        ({"samples": 0}, "--samples=0"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"max_new_tokens": 510}, "Lower --max_new_tokens"),
        ({"seed": -1}, "--seed=-1 must be from 0"),
        ({"template": "chat", "data": "rows.jsonl"}, "--data = 'rows.jsonl' does not exist"),
    ],
)
def test_mistakes_are_refused_before_weights_are_loaded(run, monkeypatch, flags, said):
    monkeypatch.setattr(command, "load_replicas", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=said):
        run(**flags)


def test_a_run_is_asked_in_the_way_it_was_trained(tmp_path, model_folder):
    origin = loading.find(model_folder)
    assert policies.template_of(origin, "countdown") == "tinyzero"
    (tmp_path / "config.json").write_text('{"data": {"task": "countdown", "template": "plain"}}')
    origin = origin._replace(run=RunDirectory(tmp_path))
    assert policies.template_of(origin, "countdown") == "plain"
    assert policies.template_of(origin, "gsm8k") == "chat"


def test_the_type_of_the_cache_reaches_the_sampler(run, monkeypatch):
    def settings(**how):
        raise KeyError(how["cache_dtype"])

    monkeypatch.setattr(command, "SamplingSettings", settings)
    with pytest.raises(KeyError, match="int8"):
        run(cache_dtype="int8")
