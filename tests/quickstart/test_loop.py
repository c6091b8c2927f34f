"""The quickstart, shrunk to a few steps: what it writes, and that it goes on where it was."""

import json

import pytest

from rlft_jax.data.tokenizer import load_tokenizer
from rlft_jax.main import main
from rlft_jax.quickstart import loop as quickstart


@pytest.fixture(scope="module")
def shrunk():
    """The quickstart with few problems and steps; everything else as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "EXAMPLES", 200)
        patch.setattr(quickstart, "HELDOUT", 16)
        patch.setattr(quickstart, "PRACTICE", 50)
        for name in ("sft_config", "rloo_config"):
            patch.setattr(quickstart, name, _shorter(getattr(quickstart, name)))
        yield


def _shorter(make):
    def config(*arguments):
        made = make(*arguments)
        made.steps, made.batch.prompts, made.every = 2, 8, dict(log=1, save=1)
        made.optimizer.warmup_steps = 1
        return made

    return config


@pytest.fixture(scope="module")
def folder(shrunk, tmp_path_factory):
    """A finished quickstart that was interrupted once, between SFT and its evaluation."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "measure", _interrupt)
        assert main(["quickstart", f"--workdir={folder}"]) == 130
    before = (folder / "sft/metrics.jsonl").read_bytes()
    assert main(["quickstart", f"--workdir={folder}"]) == 0
    assert (folder / "sft/metrics.jsonl").read_bytes() == before
    return folder


def _interrupt(*_):
    raise KeyboardInterrupt


def test_the_summary_has_every_figure(folder):
    summary = json.loads((folder / "summary.json").read_text())
    for stage in ("sft", "rloo"):
        assert 0 <= summary[stage]["pass_at_1"] <= summary[stage]["best_of_8"] <= 1
        assert summary[stage]["spec"]["problems"] == 16
    stages = {name: s for name, s in summary["seconds"].items() if name != "total"}
    assert {"data", "sft", "rloo", "export"} <= stages.keys()
    assert summary["seconds"]["total"] == pytest.approx(sum(stages.values()), abs=0.01)
    assert "jax" in summary["versions"]


def test_no_problem_is_in_two_sets(folder):
    sets = [
        {(tuple(sorted(row["nums"])), row["target"]) for row in map(json.loads, lines)}
        for name in ("train", "practice", "heldout")
        if (lines := quickstart.read(folder, name))
    ]
    assert len(sets) == 3
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_the_report_needs_nothing_from_elsewhere(folder):
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "after RLOO" in page
    assert "src=" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_export_holds_what_transformers_reads(folder):
    names = {file.name for file in (folder / "export").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    text = "12,8,2=21:2*8=16;<answer>(2*8)+5</answer>"
    tokenizer = load_tokenizer(folder / "export")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("21")) == 1


@pytest.mark.oracle
def test_transformers_loads_the_export(folder):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "export")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "export")
    ids = tokenizer("5,8,2=21:", return_tensors="pt").input_ids
    out = model.generate(ids, do_sample=False, max_new_tokens=8)
    assert out.shape[1] > ids.shape[1]


def test_a_finished_quickstart_only_shows_its_results_again(folder, capsys):
    before = (folder / "rloo/metrics.jsonl").read_bytes()
    assert main(["quickstart", f"--workdir={folder}"]) == 0
    assert "pass@1" in capsys.readouterr().out
    assert (folder / "rloo/metrics.jsonl").read_bytes() == before


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no quickstart of ours, and holds data"):
        quickstart.Stages(tmp_path, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
