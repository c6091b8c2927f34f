"""Some steps of a run leave a trace that TensorBoard and Perfetto read."""

import gzip
import json

import pytest

from rlft_jax.config.schema import resolved
from rlft_jax.runs import experiment
from rlft_jax.training.loop import Progress
from rlft_jax.training.profiling import Profile, parse_steps


def test_the_steps_asked_for_are_in_the_trace(tiny, tmp_path):
    config = resolved(tiny.sft(steps=4, batch__packed=False))
    experiment.run(config, tmp_path / "run", profile=(3, 3))
    (plane,) = (tmp_path / "run/profile").rglob("*.xplane.pb")
    assert b"train_step" in plane.read_bytes()
    (perfetto,) = (tmp_path / "run/profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    called = [e for e in events if e.get("name", "").startswith("PjitFunction(train_step")]
    assert 1 <= len(called) < 4  # one call shows as two on some versions; four steps would show all


@pytest.mark.parametrize("text", ["5", "0:3", "4:2", "a:b", "1:2:3"])
def test_steps_that_are_no_steps_are_refused(text):
    with pytest.raises(ValueError, match="START:STOP"):
        parse_steps(text)


def test_steps_beyond_the_end_are_refused_before_anything_is_written(tiny, tmp_path):
    config = resolved(tiny.sft(steps=4, batch__packed=False))
    with pytest.raises(ValueError, match=r"3:5 .* it has 4"):
        experiment.run(config, tmp_path / "run", profile=(3, 5))
    assert not (tmp_path / "run").exists()


def test_steps_taken_before_are_told_and_the_run_goes_on(tmp_path, capsys):
    trace = Profile(tmp_path, 3, 5, begun=5)
    trace(Progress(6, None, {}, {}))
    trace.close()
    assert "Steps 3 to 5 were taken before" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
