"""Every kind of benchmark, shrunk: its figures are there, and agree with each other."""

import json

import pytest

from rlft_jax.bench import ceilings, flops, startup, workloads
from rlft_jax.main import main
from rlft_jax.models.qwen2 import Architecture

TINY = Architecture(
    vocabulary=320,
    width=32,
    layers=1,
    heads=4,
    kv_heads=2,
    feed_forward=64,
    head_width=8,
    max_positions=256,
)
SMALL = ["--config.batch.tokens=48", "--config.mesh.data=8", "--config.mesh.fsdp=1"]


@pytest.fixture(autouse=True)
def shrunk(monkeypatch):
    monkeypatch.setitem(workloads.SHAPES, "small", TINY)
    monkeypatch.setattr(workloads, "PROMPT", 16)
    monkeypatch.setitem(ceilings.SIDE, "cpu", 64)
    monkeypatch.setitem(ceilings.COPIED, "cpu", 1 << 12)


@pytest.fixture
def bench(tmp_path):
    """Runs a benchmark and returns its JSON."""

    def run(what: str, *flags: str) -> dict:
        out = tmp_path / "out.json"
        assert main(["bench", f"--what={what}", f"--json={out}", "--steps=2", *flags]) == 0
        return json.loads(out.read_text())

    return run


def test_sft_on_full_rows_wastes_nothing_and_learns_from_every_token(bench, capsys):
    found = bench("sft", *SMALL)
    assert found["padding_waste"] == 0
    seconds = 8 * 48 / found["tokens_per_second"]
    assert found["step_seconds_least"] <= seconds <= found["step_seconds_most"]
    # The first token of a text is predicted by nothing, but a template's token may be.
    assert found["loss_tokens_per_second"] == pytest.approx(found["tokens_per_second"], rel=0.03)
    assert found["samples_per_second"] * 48 == pytest.approx(found["tokens_per_second"])
    assert found["model_flops_utilisation"] > 0
    assert found["step_memory_bytes"]["temporary"] > 0
    assert found["machine"]["ceilings"]["bytes_per_second"] > 0
    assert found["config"]["batch"]["tokens"] == 48
    assert "tokens_per_second" in capsys.readouterr().out


def test_a_pair_is_two_texts_and_a_cached_reference_asks_for_less_work(bench):
    flops = {}
    for cached in ("false", "true"):
        found = bench("dpo", *SMALL, f"--config.cache_reference={cached}")
        work = found["model_flops_per_second"] / found["tokens_per_second"]
        flops[cached] = work
        assert found["padding_waste"] == 0
        assert found["part_seconds"].keys() == {"source", "feed", "update"}
    assert flops["true"] == pytest.approx(flops["false"] * 3 / 4)


def test_a_reward_model_is_timed_without_a_head_over_tokens(bench):
    found = bench("reward", "--config.batch.tokens=255", *SMALL[1:])
    assert found["loss_tokens_per_second"] == 0
    assert found["samples_per_second"] > 0
    assert found["padding_waste"] < 0.2


def test_of_an_rloo_step_the_share_of_generation_is_told(bench):
    found = bench(
        "rloo",
        *SMALL[1:],
        "--config.sampling.max_new_tokens=8",
        "--config.batch.prompts=2",
        "--config.batch.tokens=128",
    )
    assert 0 < found["generation_share"] < 1
    parts = found["part_seconds"]
    assert parts.keys() == {"generation", "rewards", "scoring", "source", "feed", "update"}
    # Medians of two rounds are their means, so that they add up.
    assert sum(parts.values()) == pytest.approx(found["step_seconds"], rel=0.02)
    assert found["new_tokens_per_second"] == pytest.approx(found["samples_per_second"] * 8, rel=0.2)


def test_decoding_is_measured_for_each_number_of_rows(bench):
    small = [*SMALL[1:], "--rows=8,16", "--config.sampling.max_new_tokens=8"]
    found = bench("decode", *small, "--config.sampling.cache_dtype=int8")
    longest = round(found["call_seconds"] / found["step_seconds"])
    assert found["bytes_per_step"] == flops.decode_bytes(
        TINY, rows=1, context=16 + longest / 2, width=4, cache_dtype="int8"
    )
    assert found["by_rows"].keys() == {"8", "16"}
    assert found["new_tokens_per_second"] == found["by_rows"]["8"]["new_tokens_per_second"]
    assert found["bandwidth_utilisation"] > 0


def test_the_loss_in_chunks_takes_less_memory_than_all_logits_at_once(bench):
    found = bench("loss", *SMALL, "--config.model.head_chunk=16")
    assert found["memory_bytes"]["temporary"] < found["whole_logits"]["memory_bytes"]["temporary"]
    assert found["tokens_per_second"] == pytest.approx(8 * 48 / found["step_seconds"])


def test_without_steps_nothing_runs_and_memory_is_told(bench):
    found = bench("sft", *SMALL, "--steps=0")
    assert "step_seconds" not in found
    assert found["step_memory_bytes"]["arguments"] > 0


def test_two_starts_are_compared(bench, monkeypatch):
    starts = iter([{"all_compile_seconds": 8.0}, {"all_compile_seconds": 2.0}])
    monkeypatch.setattr(startup, "_start", lambda bench, cache: next(starts))
    monkeypatch.setattr(startup, "PROCESSES", {"python": startup.PROCESSES["python"]})
    found = bench("startup")
    assert found["compile_time_cut"] == 4
    assert found["python_seconds"] > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--what=sft", "--rows=2"], "--rows has no effect with --what=sft"),
        (["--what=sft", "--shape=huge"], "choose one of small, qwen2.5-0.5b"),
        (["--what=decode", "--steps=0"], "--steps=0 is too few"),
        (["--what=startup", "--steps=0"], "--steps=0 is too few"),
        (
            ["--what=decode", "--config.sampling.batch_rows=4"],
            "config.sampling.batch_rows has no effect with --what=decode",
        ),
        (["--what=rloo", "--config.rollout.overlap=True"], "overlap = True has no effect"),
        (["--what=sft", "--config.rollout.responses=4"], "config.rollout makes another kind"),
        (["--what=startup", "--config.batch.tokens=-3"], "config.batch.tokens = -3"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, said, capsys):
    assert main(["bench", *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_found_before_anything_is_measured(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(ceilings, "measure", lambda: pytest.fail("measured"))
    assert main(["bench", "--what=sft", f"--json={tmp_path}"]) == 2
    assert f"Is a directory: {tmp_path}" in capsys.readouterr().err


def test_a_start_that_fails_tells_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(startup, "PROCESSES", {})
    config = tmp_path / "sft.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(dict(steps=1, objective=dict(name='sft'), data=dict(path='gone'),\n"
        "        model=dict(path='gone'), optimizer=dict(name='adamw')))\n"
    )
    assert main(["bench", "--what=startup", f"--config={config}"]) == 2
    said = capsys.readouterr().err
    assert "The work that is to be started fails" in said
    assert "gone" in said


def test_a_config_of_another_kind_is_refused(tmp_path, capsys):
    config = tmp_path / "dpo.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(dict(steps=1, objective=dict(name='dpo'), data=dict(path='x'),\n"
        "        model=dict(path='x'), optimizer=dict(name='adamw')))\n"
    )
    assert main(["bench", "--what=sft", f"--config={config}"]) == 2
    assert "has 'dpo'" in capsys.readouterr().err
    assert main(["bench", "--what=dpo", f"--config={config}", "--shape=small"]) == 2
    assert "--shape=small has no effect with --config" in capsys.readouterr().err
