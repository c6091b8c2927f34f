"""What all commands have in common."""

import inspect

import pytest

from rlft_jax import main
from rlft_jax.config.settings import settings_of, summary


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_parameter_of_a_command_is_a_flag_that_is_explained(name):
    command = main.load(name)
    parameters = inspect.signature(command).parameters
    assert list(settings_of(command)) == list(parameters)  # none is positional or unspellable
    unexplained = [s.name for s in settings_of(command).values() if not s.help]
    assert [flag for flag in unexplained if flag != "overrides"] == []
    assert summary(command)
