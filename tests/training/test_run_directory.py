"""Facts about who may work on a run, and with which config."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlft_jax.training import run_directory
from rlft_jax.training.run_directory import RunDirectory, lock, record_config, record_versions

REPOSITORY = Path(__file__).parents[2]
HOLDS_FOREVER = """
import pathlib, sys, time
from rlft_jax.training.run_directory import RunDirectory, lock
with lock(RunDirectory(pathlib.Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""
CONFIG = {"seed": 0, "steps": 10, "optimizer": {"peak": 1e-6, "betas": (0.9, 0.95)}, "mesh": {}}


def test_a_second_process_is_refused_and_a_killed_one_is_no_obstacle(tmp_path):
    run = RunDirectory(tmp_path / "run")
    command = [sys.executable, "-c", HOLDS_FOREVER, str(run.path)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {owner.pid} on "), lock(run):
            pass
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    with lock(run):
        assert f"process {os.getpid()} " in (run.path / "lock").read_text()


def test_the_lock_is_for_one_at_a_time_and_is_given_back(tmp_path):
    run = RunDirectory(tmp_path)
    with lock(run), pytest.raises(ValueError, match=f"process {os.getpid()} "), lock(run):
        pass
    with lock(run):
        pass


def test_another_run_is_not_in_the_way(tmp_path):
    with lock(RunDirectory(tmp_path / "a")), lock(RunDirectory(tmp_path / "b")):
        pass


def test_a_run_goes_on_with_the_config_that_it_began_with(tmp_path):
    run = RunDirectory(tmp_path / "run")
    record_config(run, CONFIG)
    record_config(run, json.loads(json.dumps(CONFIG)))
    assert json.loads(run.config.read_text())["optimizer"] == {"peak": 1e-6, "betas": [0.9, 0.95]}


def test_every_setting_that_differs_is_named(tmp_path):
    run = RunDirectory(tmp_path)
    record_config(run, CONFIG)
    before = run.config.read_bytes()
    config = {**CONFIG, "optimizer": {"peak": 2e-6, "clip_norm": 1.0}, "mesh": {"fsdp": 8}}
    with pytest.raises(ValueError, match="cannot go on with another config") as error:
        record_config(run, {**config, "steps": 20}, may_differ=["steps"])
    message = str(error.value)
    assert "config.optimizer.peak was 1e-06, now 2e-06." in message
    assert "config.optimizer.betas was [0.9, 0.95], now not set." in message
    assert "config.optimizer.clip_norm was not set, now 1.0." in message
    assert "config.mesh.fsdp was not set, now 8." in message
    assert "config.seed" not in message
    assert "config.steps" not in message
    assert run.config.read_bytes() == before


def test_a_run_goes_on_under_a_version_with_more_settings(tmp_path):
    run = RunDirectory(tmp_path)
    record_config(run, CONFIG)
    newer = {**CONFIG, "stop": {"watch": None}, "deterministic": False, "lora": {}, "modes": []}
    record_config(run, newer)
    assert json.loads(run.config.read_text()) == json.loads(json.dumps(newer))
    with pytest.raises(ValueError, match=r"config\.stop\.watch was null, now 1"):
        record_config(run, {**newer, "stop": {"watch": 1}})
    with pytest.raises(ValueError, match=r"config\.deterministic was false, now null"):
        record_config(run, {**newer, "deterministic": None})
    with pytest.raises(ValueError, match=r"config\.temperature was not set, now 0"):
        record_config(run, {**newer, "temperature": 0})


def test_settings_that_may_differ_are_written_anew(tmp_path):
    run = RunDirectory(tmp_path)
    record_config(run, {**CONFIG, "every": {"log": 1, "save": 5}})
    config = {**CONFIG, "steps": 20, "every": {"log": 2, "save": 50}}
    record_config(run, config, may_differ=["steps", "every.*"])
    assert json.loads(run.config.read_text())["steps"] == 20
    assert json.loads(run.config.read_text())["every"] == {"log": 2, "save": 50}


def test_one_is_not_true_and_whole_numbers_are_not_fractions(tmp_path):
    run = RunDirectory(tmp_path)
    record_config(run, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match=r"config\.a was 1, now true") as error:
        record_config(run, {"a": True, "b": 1.0})
    assert "config.b was 1, now 1.0" in str(error.value)


def test_versions_that_changed_are_said(tmp_path, monkeypatch, caplog):
    run = RunDirectory(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert record_versions(run).keys() >= {"python", "jax", "numpy"}
        record_versions(run)
        assert caplog.text == ""
        monkeypatch.setattr(run_directory, "versions", lambda: {"jax": "99"})
        record_versions(run)
    assert "-> 99" in caplog.text
    assert json.loads(run.versions.read_text()) == {"jax": "99"}
