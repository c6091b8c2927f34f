"""What responses are worth: verifiers, the user's own functions, reward models, weighted sums.

A reward is any callable `(problems, responses) -> one number for each response`. Rewards are
often other people's code, so whatever they raise or return is checked here, and a failure names
the reward, the problem and the response.
"""

import difflib
import importlib
import importlib.util
import math
import numbers
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from jaxtyping import Float

from rlft_jax.tasks import TASKS
from rlft_jax.tasks.problem import Problem, lookup

Reward = Callable[[Sequence[Problem], Sequence[str]], Sequence[float] | np.ndarray]
Values: TypeAlias = Float[np.ndarray, " N"]

_EXCERPT = 600  # characters of a prompt or response in an error


class RewardError(ValueError):
    """A reward failed, or returned something that is not one finite number per response."""


def verifier(*, task: str, scorer: str = "strict") -> Reward:
    """The score of a task's rule, as a reward.

    Raises:
        ValueError: If there is no such task, or the task has no such scorer.
    """
    score = lookup(f"{task} scorer", scorer, lookup("task", task, TASKS).SCORERS)

    def reward(problems: Sequence[Problem], responses: Sequence[str]) -> list[float]:
        return [score(problem, response) for problem, response in zip(problems, responses)]

    return reward


class LearnedReward(NamedTuple):
    """A reward model in its place in a sum, until a run puts one there that has its weights.

    Attributes:
        model: Where it is.
        dtype: What it computes in.
        batch_rows: Texts that it scores at once.
    """

    model: str
    dtype: Literal["float32", "bfloat16"]
    batch_rows: int

    def __call__(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[float]:
        """Nothing to be called yet."""
        raise AssertionError(f"{self.model} has not been loaded")


def _alone(compute: Callable[[], Values]) -> Values:
    return compute()


@dataclass(frozen=True)
class WeightedRewards:
    """A sum of named rewards; `weighted` makes one and checks it.

    Attributes:
        parts: Rewards and their weights.
        agreed: Computes one of them, and raises on all processes if it raises on one.
    """

    parts: Mapping[str, tuple[Reward, int | float]]
    agreed: Callable[[Callable[[], Values]], Values] = _alone

    @property
    def learned(self) -> dict[str, LearnedReward]:
        """The reward models that are yet to be loaded."""
        return {n: part for n, (part, _) in self.parts.items() if isinstance(part, LearnedReward)}

    def with_rewards(self, rewards: Mapping[str, Reward]) -> "WeightedRewards":
        """The same sum with other rewards under these names."""
        changed = {name: (reward, self.parts[name][1]) for name, reward in rewards.items()}
        return replace(self, parts={**self.parts, **changed})

    def __call__(
        self, problems: Sequence[Problem], responses: Sequence[str]
    ) -> tuple[Values, dict[str, Values]]:
        """The weighted sum, and every part by its name as it was before weighting.

        Raises:
            RewardError: As `checked` does.
        """
        values = {
            name: self.agreed(lambda n=name, r=reward: checked(n, r, problems, responses))
            for name, (reward, _) in self.parts.items()
        }
        total = np.zeros(len(responses))
        for name, (_, weight) in self.parts.items():
            total += weight * values[name]
        return total, values


def weighted(parts: Mapping[str, tuple[Reward, int | float]]) -> WeightedRewards:
    """The sum of rewards, given by name with their weights.

    Raises:
        ValueError: If there are none, or a weight is not a finite number.
    """
    if not parts:
        raise ValueError("A run on rewards needs at least one. Name a reward and its weight.")
    bad = {name: weight for name, (_, weight) in parts.items() if not _is_finite(weight)}
    if bad:
        raise ValueError(f"Weights of rewards must be finite numbers, but {bad} are not.")
    return WeightedRewards(dict(parts))


def combined(
    task: str | None,
    *,
    scorer: str = "strict",
    functions: Mapping[str, int | float] | None = None,
    models: Mapping[str, str] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_rows: int = 64,
) -> WeightedRewards:
    """The weighted sum that a config's `reward` section describes.

    Args:
        task: Whose rule the verifier applies.
        scorer: Which score of the task the verifier gives.
        functions: Weights by reward: "verifier", a name that `models` has, or the place of a
            function of yours as package.module:function or path/to/file.py:function. A reward of
            weight 0 is logged and does not train. If None, all models with weight 1, or the
            verifier if there are none.
        models: Reward models by a name of yours: folders, names on the hub or run directories.
        dtype: What reward models compute in.
        batch_rows: Texts that a reward model scores at once, on all devices together.

    Raises:
        ValueError: If a reward cannot be found. Reward models are not looked for yet.
    """
    made: dict[str, tuple[Reward, int | float]] = {}
    for name, weight in weights(functions, models).items():
        if name in (models or {}):
            made[name] = LearnedReward((models or {})[name], dtype, batch_rows), weight
        elif name != "verifier":
            made[name] = load(name), weight
        elif task is not None:
            made[name] = verifier(task=task, scorer=scorer), weight
        else:
            raise ValueError(
                "config.reward.functions names the verifier, which belongs to a task. Set"
                " config.data.task, or name a function of your own."
            )
    return weighted(made)


def weights(
    functions: Mapping[str, int | float] | None, models: Mapping[str, str] | None
) -> Mapping[str, int | float]:
    """The weights of all rewards that a config's `reward` section names, or leaves to defaults.

    >>> weights(None, None), weights(None, {"helpful": "runs/reward"})
    ({'verifier': 1.0}, {'helpful': 1.0})
    """
    return functions if functions is not None else dict.fromkeys(models or ["verifier"], 1.0)


def checked(
    name: str, reward: Reward, problems: Sequence[Problem], responses: Sequence[str]
) -> Values:
    """The rewards of N responses, one each to N problems.

    Raises:
        RewardError: If the reward raises, or returns anything but N finite numbers. Where one
            response alone is to blame, the error shows it.
    """
    assert len(problems) == len(responses), (len(problems), len(responses))
    try:
        returned = reward(problems, responses)
    except RewardError:
        raise
    except Exception as error:  # other people's code may raise anything; it is raised on
        raise _blame(name, reward, problems, responses, error) from error
    values = np.asarray(returned, dtype=object)
    if values.shape != (len(responses),):
        raise RewardError(
            f"The reward {name!r} returned {_shape(returned)} for {len(responses)} responses."
            " It has to return one number for each."
        )
    for index, value in enumerate(values):
        if not _is_finite(value):
            shown = repr(value)[:_EXCERPT]
            raise RewardError(
                f"The reward {name!r} returned {shown}, which is no finite number, for"
                f" {_case(index, problems[index], responses[index])}"
            )
    return values.astype(np.float64)


def load(path: str) -> Reward:
    """The user's reward at package.module:function, package.module.function or file.py:function.

    Raises:
        ValueError: If the module, the file or the function cannot be found, or is not callable.
            What the module itself raises while it is imported is not caught.
    """
    place, separator, function = path.rpartition(":" if ":" in path else ".")
    if not separator or not place or not function:
        raise ValueError(
            f"{path!r} names no reward. Write package.module:function, or path/to/file.py:function."
        )
    module = _from_file(place) if place.endswith(".py") else _imported(place)
    if not hasattr(module, function):
        names = [name for name in vars(module) if not name.startswith("_")]
        close = difflib.get_close_matches(function, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{place} has no {function!r}: it has {', '.join(names)}.{hint}")
    reward = getattr(module, function)
    if not callable(reward):
        raise ValueError(
            f"{path} is {reward!r}, which cannot be called."
            " Name a function (problems, responses) -> one number for each response."
        )
    return cast(Reward, reward)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, but misses a module itself
        raise ValueError(
            f"There is no module {error.name!r}, of the reward in {name}. Install it, add its"
            " folder to PYTHONPATH, or name the file as path/to/file.py:function."
        ) from error


def _from_file(name: str) -> ModuleType:
    file = pathlib.Path(name).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"There is no file {file} to load a reward from. Correct the path.")
    spec = importlib.util.spec_from_file_location(f"rlft_reward_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up there
    spec.loader.exec_module(module)
    return module


def _blame(
    name: str,
    reward: Reward,
    problems: Sequence[Problem],
    responses: Sequence[str],
    error: Exception,
) -> RewardError:
    """The error to raise for a batch that failed, after a look for the response that did it."""
    for index, (problem, response) in enumerate(zip(problems, responses)):
        try:
            reward([problem], [response])
        except Exception as single:  # the failure that we look for
            return RewardError(
                f"The reward {name!r} raised {single!r} for {_case(index, problem, response)}"
            )
    return RewardError(
        f"The reward {name!r} raised {error!r} for a batch of {len(responses)} responses, though"
        " for none of them alone. Look for what it computes across a batch."
    )


def _case(index: int, problem: Problem, response: str) -> str:
    prompt = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
    return (
        f"response {index}.\nPrompt (its end): {str(prompt)[-_EXCERPT:]!r}\n"
        f"Response ({len(response)} characters, its end): {response[-_EXCERPT:]!r}\n"
        "Correct the reward, or have it return a number for such a response."
    )


def _is_finite(value: Any) -> bool:
    if getattr(value, "ndim", None) == 0:  # a scalar of NumPy or JAX
        value = value.item()
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # a whole number past all floats
        return False


def _shape(returned: Any) -> str:
    shape = np.shape(np.asarray(returned, dtype=object))
    if not shape:
        return repr(returned)[:_EXCERPT]
    return f"{len(returned)} values" if len(shape) == 1 else f"an array of shape {shape}"
