"""Exports are made where they ask to be: in the host's memory."""

import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from rlft_jax.models import convert, peft
from rlft_jax.runs import exporting, loading
from tests import tiny_run


@pytest.fixture(scope="module")
def full(tiny, tmp_path_factory):
    return tiny_run.run(tiny.sft(steps=1), tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def adapted(tiny, tmp_path_factory):
    return tiny_run.run(tiny.sft(steps=1, lora__rank=4), tmp_path_factory.mktemp("adapted"))


@pytest.fixture
def used(monkeypatch):
    """Calls the last device the host's memory; returns the devices of what is written."""
    monkeypatch.setattr(loading, "host", lambda: SingleDeviceSharding(jax.devices()[-1]))
    found = set()

    def watch(module):
        save = module.save

        def saved(folder, params, *arguments, **how):
            found.update(*(array.devices() for array in jax.tree.leaves(params)))
            save(folder, params, *arguments, **how)

        monkeypatch.setattr(module, "save", saved)

    watch(convert)
    watch(peft)
    return found


def test_a_model_is_loaded_and_written_on_the_host_alone(full, used, tmp_path):
    exporting.export(str(full), tmp_path / "out", dtype="float32")
    assert used == {jax.devices()[-1]}


@pytest.mark.parametrize("alone", [True, False])
def test_adapters_are_merged_and_written_on_the_host_alone(adapted, used, tmp_path, alone):
    exporting.export(str(adapted), tmp_path / "out", dtype="float32", adapter=alone)
    assert used == {jax.devices()[-1]}


def test_a_run_is_exported_where_there_is_no_accelerator(full, tmp_path):
    """The platform that is asked for is not there; only what computes on it must fail."""
    script = "from rlft_jax.main import run; raise SystemExit(run())"
    words = [sys.executable, "-c", script, "export", f"--run={full}", f"--out={tmp_path}/out"]
    environment = {**os.environ, "JAX_PLATFORMS": "tpu", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize(
    ("platforms", "backend"),
    [(None, "cpu"), ("", "cpu"), ("cpu", "cpu"), ("cuda,cpu", "cpu"), ("cuda", None)],
)
def test_the_default_device_stands_in_for_a_host_that_jax_may_not_use(
    monkeypatch, platforms, backend
):
    devices = {"cpu": jax.devices()[:1], None: jax.devices()[1:2]}
    monkeypatch.setattr(loading.jax, "local_devices", lambda *, backend: devices[backend])
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", platforms)
    try:
        assert loading.host().device_set == set(devices[backend])
    finally:
        jax.config.update("jax_platforms", before)
