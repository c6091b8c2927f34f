"""What a bug report says."""

import jax

from rlft_jax.commands import env


def test_report_names_versions_and_devices(capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", "elsewhere")
    env.env()
    report = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert report["jax"] == jax.__version__
    assert report["devices"] == f"{jax.device_count()} x cpu"
    assert report["HF_HOME"] == "elsewhere"


def test_missing_packages_are_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(env, "PACKAGES", ("jax", "no-such-package"))
    assert dict(env.facts())["no-such-package"] == "missing; install rlft_jax again"
