"""Tasks: problems that a rule can check. Plain Python, no JAX and no NumPy.

A task is a module with the functions of `Task`. To add one, write the module and name it
in `TASKS`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rlft_jax.tasks import countdown, gsm8k, ifeval
from rlft_jax.tasks.problem import Grade, Problem, Row


class Task(Protocol):
    """What a task module offers."""

    @property
    def TEMPLATES(self) -> Mapping[str, Any]:
        """The ways to pose a problem, by name."""
        ...

    @property
    def SCORERS(self) -> Mapping[str, Callable[[Problem, str], float]]:
        """The scores that serve as rewards, by name; "strict" is the one of `grade`."""
        ...

    @staticmethod
    def problem(row: Row, *, template: str = ...) -> Problem:
        """Poses the problem of a row; ValueError if the row does not hold one."""
        ...

    @staticmethod
    def demonstration(row: Row, *, template: str = ...) -> str:
        """A correct completion of `problem(row, template=template).prompt`, to imitate."""
        ...

    @staticmethod
    def grade(problem: Problem, response: str) -> Grade:
        """Grades a response, given without its prompt. Never raises, whatever the response."""
        ...

    @staticmethod
    def group(problem: Problem) -> str:
        """The kind of problem this is, to break an accuracy down by."""
        ...


TASKS: dict[str, Task] = {
    "countdown": countdown,
    "gsm8k": gsm8k,
    "ifeval": ifeval,
}
