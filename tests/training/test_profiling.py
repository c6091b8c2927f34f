"""Some steps of a run leave a trace that TensorBoard and Perfetto read."""

import gzip
import json

import pytest

from rlft_jax.config.schema import resolved
from rlft_jax.runs import experiment
from rlft_jax.training.profiling import check_steps, parse_steps


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


@pytest.mark.parametrize(("first", "last"), [(3, 6), (6, 7), (1, 2)])
def test_steps_that_a_run_does_not_take_are_refused(first, last):
    check_steps(2, 5, begun=2, steps=5)
    with pytest.raises(ValueError, match="takes steps 3 to 5"):
        check_steps(first, last, begun=2, steps=5)
