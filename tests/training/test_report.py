"""Facts about the metrics that a run writes."""

import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from rlft_jax.metrics import Count, Largest, Mean
from rlft_jax.training.report import Report, as_json, numbers
from rlft_jax.training.run_directory import RunDirectory


def mean(total: float, weight: float = 1) -> Mean:
    return Mean(jnp.float32(total), jnp.float32(weight))


def write(run: RunDirectory, steps: range, *, tensorboard: bool = False) -> None:
    report = Report(run, after=steps.start - 1, tensorboard=tensorboard)
    for step in steps:
        report.metrics(step, {"loss": mean(1, 3 * step), "entropy": mean(0.1)})
        report.timings(step, {"seconds": 0.5})
        report.samples(
            step, [{"prompt": "p", "completion": f"{step}{i}", "reward": 0.5} for i in range(2)]
        )
    report.close()


def recorded(run: RunDirectory) -> list[tuple[int, Any]]:
    """What TensorBoard's files say, read as its format has it: length, check, record, check."""
    found = []
    for path in sorted(run.tensorboard.iterdir()):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            found += [(event.step, value) for value in event.summary.value]
            content = content[16 + size :]
    return found


def events(run: RunDirectory) -> list[tuple[int, str, float]]:
    """TensorBoard's numbers."""
    return [(step, value.tag, value.simple_value) for step, value in recorded(run)]


def texts(run: RunDirectory) -> list[tuple[int, str]]:
    """TensorBoard's texts."""
    found = [(step, value) for step, value in recorded(run) if value.tensor.string_val]
    assert all(value.metadata.plugin_data.plugin_name == "text" for _, value in found)
    return [(step, value.tensor.string_val[0].decode()) for step, value in found]


def test_numbers_are_the_shortest_that_mean_the_same(tmp_path):
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    for value in values:
        assert np.float32(numbers({"a": value})["a"]) == value
    assert numbers({"b": mean(1, 3), "a": np.float32(0.1), "c": 0.1, "d": 2**40}) == {
        "a": 0.1,
        "b": 0.33333334,
        "c": 0.1,
        "d": 2.0**40,
    }


def test_every_kind_of_metric_is_a_number():
    tokens = Count.zero().plus(jnp.array(2**24 + 1))  # more than float32 can count
    found = {"num_tokens": tokens, "ratio/max": Largest(jnp.float32(1.1)), "reward": np.float32(2)}
    assert numbers(found) == {"num_tokens": 16777217, "ratio/max": 1.1, "reward": 2}


def test_a_value_that_is_not_finite_is_null_and_named():
    values = {"loss": math.nan, "kl": -math.inf, "reward": 1.0}
    line = json.dumps(as_json(values), allow_nan=False)
    assert json.loads(line) == {
        "loss": None,
        "kl": None,
        "reward": 1.0,
        "not_finite": {"loss": "nan", "kl": "-inf"},
    }


def test_metrics_hold_no_wall_clock_and_one_line_a_step(tmp_path):
    run = RunDirectory(tmp_path)
    write(run, range(1, 3))
    assert run.metrics.read_text() == (
        '{"step": 1, "entropy": 0.1, "loss": 0.33333334}\n'
        '{"step": 2, "entropy": 0.1, "loss": 0.16666667}\n'
    )
    assert json.loads(run.timings.read_text().splitlines()[1]) == {"step": 2, "seconds": 0.5}
    assert len(run.samples.read_text().splitlines()) == 4


@pytest.mark.parametrize("restored", [0, 3, 5])
def test_a_run_that_goes_on_writes_the_bytes_of_one_that_never_stopped(tmp_path, restored):
    whole, cut = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "cut")
    write(whole, range(1, 9))
    write(cut, range(1, 6))
    write(cut, range(restored + 1, 9))
    for name in ("metrics.jsonl", "samples.jsonl", "timings.jsonl"):
        assert (cut.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_metrics_returns_what_it_wrote(tmp_path):
    report = Report(RunDirectory(tmp_path), tensorboard=False)
    assert report.metrics(1, {"loss": mean(1, 4)}) == {"loss": 0.25}
    report.close()


def test_tensorboard_gets_the_same_numbers(tmp_path):
    run = RunDirectory(tmp_path)
    write(run, range(1, 3), tensorboard=True)
    assert (2, "loss", pytest.approx(1 / 6)) in events(run)
    assert (1, "seconds", 0.5) in events(run)


def test_tensorboard_shows_completions_as_they_are(tmp_path):
    run = RunDirectory(tmp_path)
    write(run, range(2, 3), tensorboard=True)
    (text,) = [text for step, text in texts(run) if step == 2]
    assert "    21" in text.splitlines()
    assert "**completion**: reward 0.5" in text.splitlines()


def test_tensorboard_is_told_from_which_step_on_to_forget(tmp_path):
    run = RunDirectory(tmp_path)
    write(run, range(4, 5), tensorboard=True)
    (path,) = run.tensorboard.iterdir()
    content, starts = path.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        if event.session_log.status == event_pb2.SessionLog.START:
            starts.append(event.step)
        content = content[16 + size :]
    assert starts == [4]


class FakeWandb:
    """What of wandb the report uses."""

    def __init__(self) -> None:
        self.started, self.logged, self.defined = [], [], []
        self.Table = lambda columns, data: (columns, data)

    def init(self, **settings):
        self.started.append(settings)
        return SimpleNamespace(
            id="abc",
            log=self.logged.append,
            define_metric=lambda *names, **settings: self.defined.append((names, settings)),
            finish=lambda: self.logged.append("finished"),
        )


def test_wandb_continues_the_run_it_began(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = RunDirectory(tmp_path)
    for step in (1, 2):
        report = Report(run, after=step - 1, tensorboard=False, wandb={"project": "countdown"})
        report.metrics(step, {"loss": mean(2, 4)})
        report.close()
    assert [settings["id"] for settings in fake.started] == [None, "abc"]
    assert fake.started[0]["project"] == "countdown"
    assert fake.logged == [
        {"step": 1, "loss": 0.5},
        "finished",
        {"step": 2, "loss": 0.5},
        "finished",
    ]
    assert fake.defined[0] == (("*",), {"step_metric": "step"})


def test_wandb_gets_completions_as_a_table(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    report = Report(RunDirectory(tmp_path), tensorboard=False, wandb={})
    prompt = [{"role": "user", "content": "Reach 9."}]
    report.samples(3, [{"prompt": prompt, "completion": "4 + 5", "reward": 1.0}])
    report.close()
    table = (["prompt", "completion", "reward"], [["user: Reach 9.", "4 + 5", 1.0]])
    assert fake.logged[0] == {"step": 3, "completions": table}


def test_wandb_that_is_not_installed_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'rlft_jax\[wandb\]'"):
        Report(RunDirectory(tmp_path), wandb={"project": "countdown"})
    assert not list(tmp_path.iterdir())
