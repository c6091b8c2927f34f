"""Facts about joining other processes, and failing with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft_jax.training import processes
from rlft_jax.training.processes import initialize_from_environment, together


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


def test_one_process_fails_alone():
    assert together(lambda: 3, ValueError) == 3
    with pytest.raises(ValueError, match="oops"):
        together(lambda: int("oops"), ValueError)


def test_an_error_elsewhere_is_raised_here(monkeypatch):
    failed = iter([[False, True], [True, False], [False, False]])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        processes.multihost_utils, "process_allgather", lambda _: np.array(next(failed))
    )
    with pytest.raises(ValueError, match="in another process"):
        together(lambda: 3, ValueError)
    with pytest.raises(ValueError, match="oops"):
        together(lambda: int("oops"), ValueError)
    assert together(lambda: 3, ValueError) == 3


def test_what_processes_give_each_other_is_not_rounded(monkeypatch):
    # JAX rounds what is of 64 bits, as it does between real processes.
    of_two = lambda x: np.asarray(jnp.stack([jnp.asarray(x), jnp.asarray(x)]))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", of_two)
    for values in (np.random.default_rng(0).random((3, 2)), np.eye(2, dtype=bool), np.arange(5)):
        gathered = processes.gathered_everywhere(values)
        assert gathered.dtype == values.dtype
        np.testing.assert_array_equal(gathered, np.concatenate([values, values]))
