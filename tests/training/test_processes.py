"""Facts about joining other processes."""

import jax
import pytest

from rlft_jax.training.processes import initialize_from_environment


def test_a_process_without_the_variables_is_on_its_own():
    assert not initialize_from_environment({})
    assert jax.process_count() == 1


def test_the_variables_say_where_the_others_are(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *place: calls.append(place))
    there = {"RLFT_COORDINATOR": "[::1]:99", "RLFT_PROCESSES": "2", "RLFT_PROCESS_ID": "1"}
    assert initialize_from_environment(there)
    assert calls == [("[::1]:99", 2, 1)]


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"RLFT_PROCESSES": "2"}, "RLFT_COORDINATOR is not set"),
        ({"RLFT_PROCESSES": "2"}, "RLFT_PROCESS_ID is not set"),
        ({"RLFT_PROCESSES": "two"}, "RLFT_PROCESSES = two is not a number"),
        ({"RLFT_COORDINATOR": "host"}, "RLFT_COORDINATOR = host is not host:port"),
        (
            {"RLFT_COORDINATOR": "a:1", "RLFT_PROCESSES": "2", "RLFT_PROCESS_ID": "2"},
            "RLFT_PROCESS_ID = 2 is not below RLFT_PROCESSES = 2",
        ),
    ],
)
def test_variables_that_make_no_sense_are_refused(environment, problem):
    with pytest.raises(ValueError, match=problem):
        initialize_from_environment(environment)
